// What a Transformer computes for each token between its products, in one pass over memory: cpu_simd.h includes this file, whose vectors
// it uses. Numbers are rounded to S where the layers of transformers round them.
// Sources: Zhang and Sennrich, Root Mean Square Layer Normalization (2019), equation 4; Shazeer, GLU Variants Improve Transformer (2020),
// equation 6; Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), equation 34, with the halves of a head as pairs.

// The sum of the squares of a row: LANES partial sums on every path, so that all add in the same order.
template <class S> NIH_INLINE float squares(const S *x, i64 count) {
    constexpr int LANES = 16, PARTS = LANES / W;
    vf sum[PARTS];
    for (int p = 0; p < PARTS; p++) sum[p] = set1(0.0f);
    for (i64 c = 0; c < count; c += LANES)
        for (int p = 0; p < PARTS && c + p * W < count; p++) {
            const vf v = load(x + c + p * W, (int)std::min<i64>(W, count - c - p * W));
            sum[p] = fma(v, v, sum[p]);
        }
    float lanes[LANES];
    for (int p = 0; p < PARTS; p++) store(lanes + p * W, sum[p]);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

template <class S> NIH_TARGET static void rms_norm(const NormArgs &g, i64 row) {
    const S *x = (const S *)g.x + row * g.x_m, *weight = (const S *)g.weight;
    S *y = (S *)g.y + row * g.y_m;
    const vf factor = set1(1.0f / std::sqrt(squares(x, g.C) / (float)g.C + (float)g.eps));
    const vf offset = set1((float)g.offset);
    for (i64 c = 0; c < g.C; c += W) {
        const int lanes = (int)std::min<i64>(W, g.C - c);
        vf v = mul(load(x + c, lanes), factor);
        if (g.twice) v = rounded(S(), v);
        store(y + c, mul(v, add(offset, load(weight + c, lanes))), lanes);
    }
}

template <class S> NIH_TARGET static void swiglu(const GateArgs &g, i64 row) {
    const S *gate = (const S *)g.gate + row * g.gate_m, *up = (const S *)g.up + row * g.up_m;
    S *y = (S *)g.y + row * g.y_m;
    for (i64 c = 0; c < g.C; c += W) {
        const int lanes = (int)std::min<i64>(W, g.C - c);
        store(y + c, mul(rounded(S(), silu(load(gate + c, lanes))), load(up + c, lanes)), lanes);
    }
}

// The heads of one token: every product is rounded before the sum, as torch rounds them.
template <class S> NIH_TARGET static void rotary(const RotaryArgs &g, i64 row) {
    const i64 b = row / g.T, t = row % g.T, half = g.D / 2;
    const S *cos = (const S *)g.cos + b * g.cos_b + t * g.cos_t, *sin = (const S *)g.sin + b * g.sin_b + t * g.sin_t;
    for (i64 h = 0; h < g.H; h++) {
        const S *x = (const S *)g.x + b * g.x_b + h * g.x_h + t * g.x_t;
        S *y = (S *)g.y + b * g.y_b + h * g.y_h + t * g.y_t;
        for (i64 d = 0; d < half; d += W) {
            const int lanes = (int)std::min<i64>(W, half - d);
            const vf low = load(x + d, lanes), high = load(x + half + d, lanes);
            const vf kept = rounded(S(), mul(low, load(cos + d, lanes))), turned = rounded(S(), mul(high, load(sin + d, lanes)));
            const vf other = rounded(S(), mul(high, load(cos + half + d, lanes))), added = rounded(S(), mul(low, load(sin + half + d, lanes)));
            store(y + d, sub(kept, turned), lanes);
            store(y + half + d, add(other, added), lanes);
        }
    }
}
