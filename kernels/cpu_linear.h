// Products of activations with a layer's weights, for one instruction set: cpu_simd.h includes this file, whose vectors it uses.
//
// Every output is summed in the same order, DEPTH inputs at a time, whatever the rows beside it: so the bits of a row depend neither on
// how many are computed together nor on the number of threads.
// Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008), with weights that are turned anew in every call.

#if NIH_WIDTH == 4

constexpr int SQUARE = 4;

NIH_INLINE void turn_square(const float *from, i64 stride, float *to) { transpose_four(from, stride, to, PANEL); }

#else

constexpr int SQUARE = 8;

NIH_INLINE __m256 four_and_four(const float *low, const float *high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

// to[j][i] = from[i][j] of eight rows and columns
NIH_INLINE void turn_square(const float *from, i64 stride, float *to) {
    for (int half = 0; half < 2; half++, from += 4, to += 4 * PANEL) {
        const __m256 a = four_and_four(from, from + 4 * stride), b = four_and_four(from + stride, from + 5 * stride);
        const __m256 c = four_and_four(from + 2 * stride, from + 6 * stride), d = four_and_four(from + 3 * stride, from + 7 * stride);
        const __m256 ab = _mm256_unpacklo_ps(a, b), AB = _mm256_unpackhi_ps(a, b);
        const __m256 cd = _mm256_unpacklo_ps(c, d), CD = _mm256_unpackhi_ps(c, d);
        _mm256_storeu_ps(to, _mm256_shuffle_ps(ab, cd, 0x44));
        _mm256_storeu_ps(to + PANEL, _mm256_shuffle_ps(ab, cd, 0xee));
        _mm256_storeu_ps(to + 2 * PANEL, _mm256_shuffle_ps(AB, CD, 0x44));
        _mm256_storeu_ps(to + 3 * PANEL, _mm256_shuffle_ps(AB, CD, 0xee));
    }
}

#endif

// Some lines (count, depth) of the weights as the first columns of a panel (depth, PANEL), with zeros for those beyond `count`.
template <class S> NIH_INLINE void linear_turn(const S *from, i64 stride, i64 count, i64 depth, float *to, float *lines) {
    const float *line = lines;
    i64 apart = PITCH;
    if constexpr (std::is_same_v<S, float>) {
        if (count >= SQUARE && depth % SQUARE == 0) {
            line = from;
            apart = stride;
        }
    }
    for (int r = 0; line == lines && r < SQUARE; r++) {
        if (r < count) widen(from + r * stride, depth, lines + r * PITCH);
        else std::fill_n(lines + r * PITCH, depth, 0.0f);
    }
    for (i64 d = 0; d < depth; d += SQUARE) {
        if (d % (64 / sizeof(S)) == 0)
            for (int r = 0; r < SQUARE; r++) __builtin_prefetch(from + (SQUARE + r) * stride + d);  // the next lines lie apart
        turn_square(line + d, apart, to + d * PANEL);
    }
}

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
            linear_turn(from, g.w_n, at.columns - c, depth, rows.panels + c / PANEL * PANEL * DEPTH + c % PANEL, rows.lines);
        }
        i64 m = 0;
        for (; m + SIDE <= at.rows; m += SIDE) linear_rows<S, SIDE>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
        for (; m + 4 <= at.rows; m += 4) linear_rows<S, 4>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
        for (; m < at.rows; m++) linear_rows<S, 1>(g, at.row + m, first, depth, at.columns, rows, rows.sums + m * COLUMNS);
    }
    linear_end<S>(g, at, rows.sums);
}
