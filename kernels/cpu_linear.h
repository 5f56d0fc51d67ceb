// Products of activations with a layer's weights, for one instruction set: cpu_simd.h includes this file, whose vectors it uses.
//
// Every output is summed in the same order, DEPTH inputs at a time, whatever the rows beside it: so the bits of a row depend neither on
// how many are computed together nor on the number of threads.
// Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), with weights that are turned anew in every call.

// sums (R, COLUMNS) += rows of x (R, depth) with the panels of the task's columns; the first time they are set
template <class S, int R>
NIH_TARGET static void linear_rows(const LinearArgs &g, i64 row, i64 first, i64 depth, i64 columns, LinearRows rows, float *sums) {
    const S *x = (const S *)g.x + row * g.x_m + first;
    for (int r = 0; r < R; r++) {
        widen(x + r * g.x_m, depth, rows.x + r * PITCH);
        for (i64 d = 0; d < depth; d += 64 / sizeof(S)) __builtin_prefetch(x + (R + r) * g.x_m + d);  // the next rows
    }
    for (i64 c = 0; c < columns; c += PANEL) {
        vf sum[R][2];
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = set1(0.0f);
        multiply(rows.x, PITCH, rows.panels + c * DEPTH, PANEL, depth, sum);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            float *to = sums + r * COLUMNS + c;
            store(to, first ? add(load(to), sum[r][0]) : sum[r][0]);
            store(to + W, first ? add(load(to + W), sum[r][1]) : sum[r][1]);
        }
    }
}

template <class S> NIH_TARGET static void linear_end(const LinearArgs &g, LinearTask at, const float *sums) {
    const S *bias = g.bias ? (const S *)g.bias + at.column : nullptr;
    for (i64 m = 0; m < at.rows; m++, sums += COLUMNS) {
        S *to = (S *)g.y + (at.row + m) * g.y_m + at.column;
        for (i64 c = 0; c < at.columns; c += W) {
            const int lanes = at.columns - c < W ? (int)(at.columns - c) : W;
            const vf sum = load(sums + c);
            store(to + c, bias ? add(sum, load(bias + c, lanes)) : sum, lanes);
        }
    }
}

template <class S> NIH_TARGET static void linear(const LinearArgs &g, LinearTask at, LinearRows rows) {
    for (i64 first = 0; first < g.K; first += DEPTH) {
        const i64 depth = std::min<i64>(DEPTH, g.K - first);
        for (i64 c = 0; c < at.columns; c += SQUARE) {
            const S *from = (const S *)g.weight + (at.column + c) * g.w_n + first;
            turn(from, g.w_n, at.columns - c, depth, rows.panels + c / PANEL * PANEL * DEPTH + c % PANEL, rows.lines);
        }
        i64 m = 0;
        for (; m + SIDE <= at.rows; m += SIDE) linear_rows<S, SIDE>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
        for (; m + 4 <= at.rows; m += 4) linear_rows<S, 4>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
        for (; m < at.rows; m++) linear_rows<S, 1>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
    }
    linear_end<S>(g, at, rows.sums);
}
