// Causal attention with a running maximum, for one instruction set: cpu_simd.h includes this file, whose vectors it uses.
//
// Keys are taken KEYS at a time from the first one on, whatever the chunk in which a token is read and whoever is computed beside it:
// so the bits of a token's output depend on its own query and on the keys and values up to it alone.
// Source: Milakov and Gimelshein, Online normalizer calculation for softmax (2018); in blocks as of Dao et al., FlashAttention (2022).

// Scores (SIDE, KEYS) of SIDE tokens in turn, of which the first sees `seen` of the block's `count` keys. Returns how many columns were computed.
NIH_INLINE int attend_score(const float *query, i64 D, const float *keys, i64 seen, i64 count, float *scores) {
    const i64 last = std::min<i64>(count, seen + SIDE - 1);
    i64 column = 0;
    for (; column < last; column += PANEL) {
        vf sum[SIDE][2];
#pragma GCC unroll 12
        for (int r = 0; r < SIDE; r++) sum[r][0] = sum[r][1] = set1(0.0f);
        multiply(query, D, keys + column * D, PANEL, D, sum);
#pragma GCC unroll 12
        for (int r = 0; r < SIDE; r++) {
            store(scores + r * KEYS + column, sum[r][0]);
            store(scores + r * KEYS + column + W, sum[r][1]);
        }
    }
    for (int r = 0; r < SIDE; r++)
        for (i64 j = std::max<i64>(0, seen + r); j < column; j++) scores[r * KEYS + j] = NIH_LOWEST;
    return (int)column;
}

// Scores of one token become weights: 1 for the highest score so far. Returns the factor by which what was summed before fades. The
// difference is taken before it is scaled: near the highest score, where weights count, it is exact.
NIH_INLINE vf attend_weigh(float *scores, int columns, vf unit, float &highest, float *total) {
    vf most = set1(highest);
    for (int j = 0; j < columns; j += W) most = max(most, load(scores + j));
    float lanes[W];
    store(lanes, most);
    float now = lanes[0];
    for (int i = 1; i < W; i++) now = lanes[i] > now ? lanes[i] : now;
    const vf fade = exp2(above_minus_infinity(mul(sub(set1(highest), set1(now)), unit)));
    vf sum = mul(load(total), fade);
    for (int j = 0; j < columns; j += W) {
        const vf weight = exp2(above_minus_infinity(mul(sub(load(scores + j), set1(now)), unit)));
        store(scores + j, weight);
        sum = add(sum, weight);
    }
    store(total, sum);
    highest = now;
    return fade;
}

// One block of keys for SIDE tokens in turn.
NIH_TARGET static void attend_tile(AttendRows rows, i64 row, i64 seen, i64 count, float *scores) {
    const int columns = attend_score(rows.query + row * rows.D, rows.D, rows.keys, seen, count, scores);
    vf fade[SIDE];
    for (int r = 0; r < SIDE; r++)
        fade[r] = attend_weigh(scores + r * KEYS, columns, set1(rows.unit), rows.highest[row + r], rows.total + (row + r) * W);
    for (i64 c = 0; c < rows.width; c += PANEL) {
        float *out = rows.out + row * rows.width + c;
        vf sum[SIDE][2];
#pragma GCC unroll 12
        for (int r = 0; r < SIDE; r++) {
            sum[r][0] = mul(fade[r], load(out + r * rows.width));
            sum[r][1] = mul(fade[r], load(out + r * rows.width + W));
        }
        multiply(scores, KEYS, rows.values + c, rows.width, columns, sum);
#pragma GCC unroll 12
        for (int r = 0; r < SIDE; r++) {
            store(out + r * rows.width, sum[r][0]);
            store(out + r * rows.width + W, sum[r][1]);
        }
    }
}

// Keys (count, D) as panels of (D, PANEL), values (count, width), both zero up to a whole panel.
template <class S> NIH_TARGET static void attend_stage(const AttendArgs &g, i64 group, i64 first, i64 count, AttendRows rows) {
    const S *key = (const S *)g.k + group * g.k_h + first * g.k_t, *value = (const S *)g.v + group * g.v_h + first * g.v_t;
    const i64 whole = (count + PANEL - 1) / PANEL * PANEL;
    for (i64 j = 0; j < whole; j += SQUARE)
        for (i64 d = 0; d < g.D; d += DEPTH) {
            float *columns = rows.keys + (j / PANEL * g.D + d) * PANEL + j % PANEL;
            turn(key + j * g.k_t + d, g.k_t, count - j, std::min<i64>(DEPTH, g.D - d), columns, rows.lines);
        }
    for (i64 j = 0; j < whole; j++) {
        if (j < count) widen(value + j * g.v_t, g.D, rows.values + j * rows.width);
        else std::fill_n(rows.values + j * rows.width, rows.width, 0.0f);
    }
}

// Queries of the task's heads and tokens; rows that fill a tile up are zeros.
template <class S> NIH_TARGET static void attend_begin(const AttendArgs &g, AttendTask at, i64 pitch, AttendRows rows) {
    const i64 each = g.H / g.G;
    std::fill_n(rows.query, each * pitch * g.D, 0.0f);
    std::fill_n(rows.out, each * pitch * rows.width, 0.0f);
    std::fill_n(rows.total, each * pitch * W, 0.0f);
    std::fill_n(rows.highest, each * pitch, NIH_LOWEST);
    for (i64 h = 0; h < each; h++)
        for (i64 t = 0; t < at.tokens; t++)
            widen((const S *)g.q + (at.group * each + h) * g.q_h + (at.t0 + t) * g.q_t, g.D, rows.query + (h * pitch + t) * g.D);
}

template <class S> NIH_TARGET static void attend_end(const AttendArgs &g, AttendTask at, i64 pitch, AttendRows rows) {
    const i64 each = g.H / g.G;
    for (i64 h = 0; h < each; h++)
        for (i64 t = 0; t < at.tokens; t++) {
            S *to = (S *)g.y + (at.group * each + h) * g.y_h + (at.t0 + t) * g.y_t;
            const i64 row = h * pitch + t;
            float total = 0.0f;
            for (int i = 0; i < W; i++) total += rows.total[row * W + i];
            for (i64 d = 0; d < g.D; d += W)
                store(to + d, div(load(rows.out + row * rows.width + d), set1(total)), g.D - d < W ? (int)(g.D - d) : W);
        }
}

template <class S> NIH_TARGET static void attend(const AttendArgs &g, AttendTask at, AttendRows rows) {
    const i64 each = g.H / g.G, pitch = (at.tokens + SIDE - 1) / SIDE * SIDE;
    const i64 before = g.N - g.T + at.t0, end = before + at.tokens;
    alignas(64) float scores[SIDE * KEYS];
    attend_begin<S>(g, at, pitch, rows);
    for (i64 first = 0; first < end; first += KEYS) {
        const i64 count = std::min<i64>(KEYS, end - first);
        attend_stage<S>(g, at.group, first, count, rows);
        for (i64 h = 0; h < each; h++)
            for (i64 t = std::max<i64>(0, (first - before) / SIDE * SIDE); t < at.tokens; t += SIDE)
                attend_tile(rows, h * pitch + t, before + t + 1 - first, count, scores);
    }
    attend_end<S>(g, at, pitch, rows);
}
