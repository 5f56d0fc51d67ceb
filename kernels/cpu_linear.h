// Products of activations with a layer's weights, for one instruction set: cpu_simd.h includes this file, whose vectors it uses.
//
// Every output is summed in the same order, DEPTH inputs at a time, whatever the rows beside it: so the bits of a row depend neither on
// how many are computed together nor on the number of threads.
// Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), with weights that are turned anew in every call.

// Fetches the weights from input `first` on into the cache: the share that belongs to rows `m` to `end` of a task.
template <class S> NIH_INLINE void fetch(const LinearArgs &g, LinearTask at, i64 first, i64 m, i64 end) {
    i64 column = at.column;
    if (first >= g.K) {
        first = 0;
        column = at.next;
    }
    const i64 depth = std::min<i64>(DEPTH, g.K - first), columns = std::min<i64>(COLUMNS, g.N - column);
    if (columns <= 0) return;
    const S *from = (const S *)g.weight + column * g.w_n + first;
    for (i64 line = m * columns / at.rows; line < end * columns / at.rows; line++)
        for (i64 i = 0; i < depth; i += 64 / sizeof(S)) __builtin_prefetch(from + line * g.w_n + i, 0, 2);
}

// sums (R, COLUMNS) += rows of x (R, depth) with the panels of the task's columns; the first time they are set
template <class S, int R>
NIH_TARGET static void linear_rows(const LinearArgs &g, LinearTask at, i64 m, i64 first, i64 depth, LinearRows rows) {
    constexpr i64 LINE = 64 / sizeof(S);
    const S *x = (const S *)g.x + (at.row + m) * g.x_m + first;
    for (int r = 0; r < R; r++) widen(x + r * g.x_m, depth, rows.x + r * PITCH);
    fetch<S>(g, at, first + DEPTH, m, m + R);
    for (i64 c = 0; c < at.columns; c += PANEL) {
        vf sum[R][2];
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = set1(0.0f);
        // The next rows are fetched a few lines at a time: many at once would hold up the panels.
        const i64 share = (R * PANEL + at.columns - 1) / at.columns, from = c / PANEL * share;
        for (i64 d = 0; d < depth; d += LINE) {
            for (i64 r = from; r < std::min<i64>(from + share, R); r++) __builtin_prefetch(x + (R + r) * g.x_m + d);
            multiply(rows.x + d, PITCH, rows.panels + c * DEPTH + d * PANEL, PANEL, std::min<i64>(LINE, depth - d), sum);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            float *to = rows.sums + (m + r) * COLUMNS + c;
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
        for (; m + SIDE <= at.rows; m += SIDE) linear_rows<S, SIDE>(g, at, m, first, depth, rows);
        for (; m + 4 <= at.rows; m += 4) linear_rows<S, 4>(g, at, m, first, depth, rows);
        for (; m < at.rows; m++) linear_rows<S, 1>(g, at, m, first, depth, rows);
    }
    linear_end<S>(g, at, rows.sums);
}
