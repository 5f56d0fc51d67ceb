// The ops for one instruction set. cpu.cpp includes this file once per path, with NIH_PATH (a namespace), NIH_WIDTH (floats in a
// vector) and NIH_TARGET (the function attribute that turns the instructions on) set. Channels lie across the lanes, time is the loop.

#define NIH_INLINE NIH_TARGET static inline __attribute__((always_inline))

namespace NIH_PATH {

constexpr int W = NIH_WIDTH;

#if NIH_WIDTH == 16

typedef __m512 vf;
typedef __mmask16 vm;

NIH_INLINE vf set1(float x) { return _mm512_set1_ps(x); }
NIH_INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
NIH_INLINE vf load(const bf16 *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
NIH_INLINE vf load(const f16 *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
NIH_INLINE void store(float *p, vf x) { _mm512_storeu_ps(p, x); }
// The nearest bf16 in the upper half of each float, ties to even; NaN stays NaN.
NIH_INLINE __m512i nearest_bf16(vf x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i even = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), even, quiet);
}
NIH_INLINE void store(bf16 *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(nearest_bf16(x), 16)));
}
NIH_INLINE void store(f16 *p, vf x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
NIH_INLINE vf rounded(bf16, vf x) { return _mm512_castsi512_ps(_mm512_and_si512(nearest_bf16(x), _mm512_set1_epi32((int)0xffff0000))); }
NIH_INLINE vf rounded(f16, vf x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
NIH_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
NIH_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
NIH_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
NIH_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
NIH_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
// Of two operands the second comes back if one is NaN: keep the data there.
NIH_INLINE vf max(vf bound, vf x) { return _mm512_max_ps(bound, x); }
NIH_INLINE vf min(vf bound, vf x) { return _mm512_min_ps(bound, x); }
NIH_INLINE vf minus_abs(vf x) {
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000)));
}
NIH_INLINE vm above(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
NIH_INLINE vm is_zero(vf a) { return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_EQ_OQ); }
NIH_INLINE vf pick(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
NIH_INLINE vf rint(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
NIH_INLINE vf scale(vf x, vf n) { return _mm512_scalef_ps(x, n); }
NIH_INLINE vf to_range(vf x) { return x; }
NIH_INLINE vf above_minus_infinity(vf x) { return max(set1(-200.0f), x); }

#elif NIH_WIDTH == 8

typedef __m256 vf;
typedef __m256 vm;

NIH_INLINE vf set1(float x) { return _mm256_set1_ps(x); }
NIH_INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
NIH_INLINE vf load(const bf16 *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
NIH_INLINE vf load(const f16 *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
NIH_INLINE void store(float *p, vf x) { _mm256_storeu_ps(p, x); }
NIH_INLINE __m256i nearest_bf16(vf x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i even = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(even, quiet, nan);
}
NIH_INLINE void store(bf16 *p, vf x) {
    __m256i rounded = _mm256_srli_epi32(nearest_bf16(x), 16);
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}
NIH_INLINE void store(f16 *p, vf x) { _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
NIH_INLINE vf rounded(bf16, vf x) { return _mm256_castsi256_ps(_mm256_and_si256(nearest_bf16(x), _mm256_set1_epi32((int)0xffff0000))); }
NIH_INLINE vf rounded(f16, vf x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
NIH_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
NIH_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
NIH_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
NIH_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
NIH_INLINE vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
NIH_INLINE vf max(vf bound, vf x) { return _mm256_max_ps(bound, x); }
NIH_INLINE vf min(vf bound, vf x) { return _mm256_min_ps(bound, x); }
NIH_INLINE vf minus_abs(vf x) { return _mm256_or_ps(x, _mm256_set1_ps(-0.0f)); }
NIH_INLINE vm above(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
NIH_INLINE vm is_zero(vf a) { return _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_EQ_OQ); }
NIH_INLINE vf pick(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
NIH_INLINE vf rint(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
NIH_INLINE vf to_range(vf x) { return min(set1(126.0f), max(set1(-200.0f), x)); }
NIH_INLINE vf above_minus_infinity(vf x) { return x; }
// x * 2^n for 1/2 < x < 2 and integral -200 <= n <= 126; below the normal range the result is 0.
NIH_INLINE vf scale(vf x, vf n) {
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    vf tiny = _mm256_cmp_ps(n, _mm256_set1_ps(-125.5f), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, _mm256_castsi256_ps(bits));
}

#else

typedef float vf __attribute__((vector_size(16)));
typedef int vm __attribute__((vector_size(16)));

NIH_INLINE vf set1(float x) { return vf{x, x, x, x}; }
template <class S> NIH_INLINE vf load(const S *p) {
    return vf{nih_float(p[0]), nih_float(p[1]), nih_float(p[2]), nih_float(p[3])};
}
template <class S> NIH_INLINE void store(S *p, vf x) {
    for (int i = 0; i < W; i++) nih_store(p + i, x[i]);
}
template <class S> NIH_INLINE vf rounded(S, vf x) {
    S row[W];
    store(row, x);
    return load(row);
}
NIH_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
NIH_INLINE vf mul(vf a, vf b) { return a * b; }
NIH_INLINE vf add(vf a, vf b) { return a + b; }
NIH_INLINE vf sub(vf a, vf b) { return a - b; }
NIH_INLINE vf div(vf a, vf b) { return a / b; }
NIH_INLINE vf pick(vm m, vf yes, vf no) { return (vf)((m & (vm)yes) | (~m & (vm)no)); }
NIH_INLINE vf max(vf bound, vf x) { return pick(bound > x, bound, x); }
NIH_INLINE vf min(vf bound, vf x) { return pick(bound < x, bound, x); }
NIH_INLINE vf minus_abs(vf x) { return (vf)((vm)x | (vm)set1(-0.0f)); }
NIH_INLINE vm above(vf a, vf b) { return a > b; }
NIH_INLINE vm is_zero(vf a) { return a == set1(0.0f); }
// Right for |x| < 2^22: adding 1.5 * 2^23 leaves no room for fraction bits.
NIH_INLINE vf rint(vf x) {
    const vf big = set1(12582912.0f);
    return (x + big) - big;
}
NIH_INLINE vf to_range(vf x) { return min(set1(126.0f), max(set1(-200.0f), x)); }
NIH_INLINE vf above_minus_infinity(vf x) { return x; }
NIH_INLINE vf scale(vf x, vf n) {
    vm whole = __builtin_convertvector(n, vm);
    return (vf)(((vm)x + (whole << 23)) & ~(n < set1(-125.5f)));
}

#endif

NIH_INLINE vf rounded(float, vf x) { return x; }

// The last lanes of a row that is no multiple of W go through a buffer, so that nothing outside the row is touched.
template <class S> NIH_INLINE vf load(const S *p, int lanes) {
    if (lanes == W) return load(p);
    S row[W] = {};
    for (int i = 0; i < lanes; i++) row[i] = p[i];
    return load(row);
}
template <class S> NIH_INLINE void store(S *p, vf x, int lanes) {
    if (lanes == W) return store(p, x);
    S row[W];
    store(row, x);
    for (int i = 0; i < lanes; i++) p[i] = row[i];
}

// 2^x of a finite x with a relative error of 1.1e-7; the first two coefficients are exact, so that a decay near 1 has no bias.
// 0 below 2^-126.
NIH_INLINE vf exp2(vf x) {
    x = to_range(x);
    vf n = rint(x), r = sub(x, n);
    vf p = fma(set1(0.00133002643f), r, set1(0.00966970846f));
    p = fma(p, r, set1(0.0555055999f));
    p = fma(p, r, set1(0.240222816f));
    p = fma(p, r, set1(0.693147181f));
    return scale(fma(p, r, set1(1.0f)), n);
}

// e^-|x|, 0 for infinities
NIH_INLINE vf decay(vf x) { return exp2(above_minus_infinity(mul(minus_abs(x), set1(1.44269504f)))); }

// log(1 + e^x), relatively exact also where it is tiny: log1p(e) = 2 atanh(e / (2 + e)).
NIH_INLINE vf softplus(vf x) {
    vf e = decay(x);
    vf s = div(e, add(set1(2.0f), e)), q = mul(s, s);
    vf p = fma(set1(0.280119844f), q, set1(0.280018058f));
    p = fma(p, q, set1(0.400215272f));
    p = fma(p, q, set1(0.666664163f));
    vf tail = fma(mul(q, p), s, add(s, s));
    return add(max(set1(0.0f), x), tail);
}

NIH_INLINE vf silu(vf x) {
    vf e = decay(x);
    vf weight = pick(above(set1(0.0f), x), e, set1(1.0f));
    return div(mul(x, weight), add(set1(1.0f), e));
}

// ---- WKV4 ----------------------------------------------------------------------------------------------------------

struct Wkv {
    vf a, b, p;  // numerator and denominator in units of e^p
};

NIH_INLINE Wkv wkv_load(const float *s, int c) { return {load(s + c), load(s + BLOCK + c), load(s + 2 * BLOCK + c)}; }

NIH_INLINE void wkv_store(float *s, int c, Wkv x) {
    store(s + c, x.a);
    store(s + BLOCK + c, x.b);
    store(s + 2 * BLOCK + c, x.p);
}

// One of the two weights is always 1, the other one e^-|difference|.
NIH_INLINE Wkv wkv_push(Wkv s, vf w, vf k, vf v) {
    vf p = add(s.p, w), d = sub(k, p), e = decay(d);
    vm newer = above(d, set1(0.0f));
    vf kept = pick(newer, e, set1(1.0f)), fresh = pick(newer, set1(1.0f), e);
    return {fma(fresh, v, mul(kept, s.a)), fma(kept, s.b, fresh), pick(newer, k, p)};
}

NIH_INLINE vf wkv_output(Wkv s, vf u, vf k, vf v) {
    vf d = sub(add(u, k), s.p), e = decay(d);
    vm newer = above(d, set1(0.0f));
    vf kept = pick(newer, e, set1(1.0f)), fresh = pick(newer, set1(1.0f), e);
    vf numerator = fma(fresh, v, mul(kept, s.a)), weight = fma(kept, s.b, fresh);
    return pick(is_zero(weight), set1(0.0f), div(numerator, weight));
}

// Carries `state` over a chunk of `steps` whose own summary, begun from nothing, is `own`.
NIH_TARGET static void wkv_fold(const float *w, i64 steps, float *state, const float *own) {
    for (int c = 0; c < BLOCK; c += W) {
        Wkv s = wkv_load(state, c), t = wkv_load(own, c);
        vf p = fma(load(w + c), set1((float)steps), s.p), d = sub(t.p, p), e = decay(d);
        vm newer = above(d, set1(0.0f));
        vf kept = pick(newer, e, set1(1.0f)), fresh = pick(newer, set1(1.0f), e);
        vf a = fma(fresh, t.a, mul(kept, s.a)), b = fma(fresh, t.b, mul(kept, s.b));
        wkv_store(state, c, {a, b, pick(newer, t.p, p)});
    }
}

// Reads the keys and values of one block of channels from time t0 on. SUMMARISE: pushes them onto `own`. REPLAY: writes the outputs, and
// pushes them onto `state`.
template <class S, bool SUMMARISE, bool REPLAY>
NIH_TARGET static void wkv_span(const Wkv4Args &g, Part at, const float *wb, const float *ub, float *state, float *own) {
    const S *k0 = (const S *)g.k + at.row * g.k_b + at.t0 * g.k_t + at.channel;
    const S *v0 = (const S *)g.v + at.row * g.v_b + at.t0 * g.v_t + at.channel;
    S *y0 = (S *)g.y + at.row * g.y_b + at.t0 * g.y_t + at.channel;
    for (int c = 0; c < at.channels; c += W) {
        const int lanes = at.channels - c < W ? at.channels - c : W;
        const S *kp = k0 + c, *vp = v0 + c;
        S *yp = y0 + c;
        vf w = load(wb + c), u = load(ub + c);
        Wkv s = wkv_load(state, c), o = wkv_load(own, c);
        for (i64 t = 0; t < at.steps; t++) {
            __builtin_prefetch(kp + AHEAD * g.k_t);
            __builtin_prefetch(vp + AHEAD * g.v_t);
            vf k = load(kp, lanes), v = load(vp, lanes);
            if (REPLAY) {
                store(yp, wkv_output(s, u, k, v), lanes);
                s = wkv_push(s, w, k, v);
                yp += g.y_t;
            }
            if (SUMMARISE) o = wkv_push(o, w, k, v);
            kp += g.k_t;
            vp += g.v_t;
        }
        if (REPLAY) wkv_store(state, c, s);
        if (SUMMARISE) wkv_store(own, c, o);
    }
}

// ---- selective scan ------------------------------------------------------------------------------------------------

constexpr int TILE = 4;  // states that stay in registers together

// Sums y over `COUNT` states, and carries them: h = e^(delta A) h + delta B u. `decay_rate` is A log2(e), all of it (N, BLOCK).
template <int COUNT, bool SUMMARISE, bool REPLAY>
NIH_INLINE void scan_states(const ScanRows &rows, i64 steps, i64 N, i64 n, int c, const float *rate, float *state, float *own) {
    vf h[COUNT], o[COUNT], a2[COUNT];
    for (int i = 0; i < COUNT; i++) {
        a2[i] = load(rate + (n + i) * BLOCK + c);
        h[i] = load(state + (n + i) * BLOCK + c);
        o[i] = load(own + (n + i) * BLOCK + c);
    }
    for (i64 t = 0; t < steps; t++) {
        vf delta = load(rows.delta + t * W), du = load(rows.du + t * W);
        vf y = REPLAY ? load(rows.y + t * W) : set1(0.0f);
        const float *b = rows.B + t * N + n, *q = rows.C + t * N + n;
        for (int i = 0; i < COUNT; i++) {
            vf a = exp2(mul(delta, a2[i])), input = mul(du, set1(b[i]));
            if (REPLAY) {
                h[i] = fma(a, h[i], input);
                y = fma(h[i], set1(q[i]), y);
            }
            if (SUMMARISE) o[i] = fma(a, o[i], input);
        }
        if (REPLAY) store(rows.y + t * W, y);
    }
    for (int i = 0; i < COUNT; i++) {
        if (REPLAY) store(state + (n + i) * BLOCK + c, h[i]);
        if (SUMMARISE) store(own + (n + i) * BLOCK + c, o[i]);
    }
}

// Carries `state` (N, BLOCK) over a chunk with the summary `own` (N + 1, BLOCK): the end states from zero, then the sum of delta.
NIH_TARGET static void scan_fold(const float *rate, i64 N, float *state, const float *own) {
    for (int c = 0; c < BLOCK; c += W) {
        vf delta = load(own + N * BLOCK + c);
        for (i64 n = 0; n < N; n++) {
            vf a = exp2(mul(delta, load(rate + n * BLOCK + c)));
            store(state + n * BLOCK + c, fma(a, load(state + n * BLOCK + c), load(own + n * BLOCK + c)));
        }
    }
}

template <class S> NIH_TARGET static void scan_widen(const S *from, i64 stride, i64 steps, i64 N, float *to) {
    for (i64 t = 0; t < steps; t++, from += stride)
        for (i64 n = 0; n < N; n++) to[t * N + n] = nih_float(from[n]);
}

template <class S, bool SUMMARISE, bool REPLAY>
NIH_TARGET static void scan_span(const ScanArgs &g, Part at, const float *rate, float *state, float *own, ScanRows rows) {
    const S *B0 = (const S *)g.Bm + at.row * g.B_b + at.t0 * g.B_t, *C0 = (const S *)g.Cm + at.row * g.C_b + at.t0 * g.C_t;
    for (i64 done = 0; done < at.steps; done += ROWS) {
        const i64 steps = at.steps - done < ROWS ? at.steps - done : ROWS, t0 = at.t0 + done;
        scan_widen(B0 + done * g.B_t, g.B_t, steps, g.N, rows.B);
        if (REPLAY) scan_widen(C0 + done * g.C_t, g.C_t, steps, g.N, rows.C);
        for (int c = 0; c < at.channels; c += W) {
            const int lanes = at.channels - c < W ? at.channels - c : W;
            const i64 channel = at.channel + c;
            const S *up = (const S *)g.u + at.row * g.u_b + t0 * g.u_t + channel;
            const S *dp = (const S *)g.delta + at.row * g.d_b + t0 * g.d_t + channel;
            vf skip = g.D ? load(g.D + channel, lanes) : set1(0.0f);
            vf bias = g.bias ? load(g.bias + channel, lanes) : set1(0.0f);
            vf total = load(own + g.N * BLOCK + c);
            for (i64 t = 0; t < steps; t++) {
                __builtin_prefetch(up + AHEAD * g.u_t);
                __builtin_prefetch(dp + AHEAD * g.d_t);
                vf u = load(up, lanes), delta = softplus(add(load(dp, lanes), bias));
                store(rows.delta + t * W, delta);
                store(rows.du + t * W, mul(delta, u));
                if (REPLAY) store(rows.y + t * W, mul(skip, u));
                total = add(total, delta);
                up += g.u_t;
                dp += g.d_t;
            }
            if (SUMMARISE) store(own + g.N * BLOCK + c, total);
            i64 n = 0;
            for (; n + TILE <= g.N; n += TILE) scan_states<TILE, SUMMARISE, REPLAY>(rows, steps, g.N, n, c, rate, state, own);
            for (; n < g.N; n++) scan_states<1, SUMMARISE, REPLAY>(rows, steps, g.N, n, c, rate, state, own);
            if (!REPLAY) continue;
            S *yp = (S *)g.y + at.row * g.y_b + t0 * g.y_t + channel;
            const S *zp = (const S *)g.z + at.row * g.z_b + t0 * g.z_t + channel;
            for (i64 t = 0; t < steps; t++) {
                vf y = load(rows.y + t * W);
                if (g.z) y = mul(y, silu(load(zp + t * g.z_t, lanes)));
                store(yp + t * g.y_t, y, lanes);
            }
        }
    }
}

// ---- causal convolution --------------------------------------------------------------------------------------------

// `taps` is (K, BLOCK). The first K - 1 steps of a row also read the carried inputs, which `conv_input` finds.
template <class S>
NIH_INLINE vf conv_input(const ConvArgs &g, const S *x, i64 row, i64 t, i64 channel, int lanes) {
    if (t >= 0) return load(x + t * g.x_t, lanes);
    if (!g.state) return set1(0.0f);
    return load(g.state + (row * (g.K - 1) + g.K - 1 + t) * g.D + channel, lanes);
}

template <class S> NIH_TARGET static void conv_span(const ConvArgs &g, Part at, const float *taps, const float *bias) {
    for (int c = 0; c < at.channels; c += W) {
        const int lanes = at.channels - c < W ? at.channels - c : W;
        const i64 channel = at.channel + c;
        const S *x = (const S *)g.x + at.row * g.x_b + channel;
        S *y = (S *)g.y + at.row * g.y_b + channel;
        for (i64 t = at.t0; t < at.t0 + at.steps; t++) {
            __builtin_prefetch(x + (t + AHEAD) * g.x_t);
            vf sum = load(bias + c);
            for (i64 j = 0; j < g.K; j++)
                sum = fma(load(taps + j * BLOCK + c), conv_input(g, x, at.row, t - g.K + 1 + j, channel, lanes), sum);
            store(y + t * g.y_t, silu(sum), lanes);
        }
    }
}

// The last K - 1 inputs of a row of `length`, the carried ones included where it is shorter than that.
template <class S> NIH_TARGET static void conv_state(const ConvArgs &g, Part at, i64 length) {
    for (int c = 0; c < at.channels; c += W) {
        const int lanes = at.channels - c < W ? at.channels - c : W;
        const i64 channel = at.channel + c;
        const S *x = (const S *)g.x + at.row * g.x_b + channel;
        for (i64 j = 0; j < g.K - 1; j++) {
            vf input = conv_input(g, x, at.row, length - g.K + 1 + j, channel, lanes);
            store(g.state_out + (at.row * (g.K - 1) + j) * g.D + channel, input, lanes);
        }
    }
}

// ---- matrix state --------------------------------------------------------------------------------------------------

// A strip of values lies across the lanes of two vectors; its state is (K, STRIP). A sweep over the keys advances the state by one token, and
// adds up the token's output and what the next token's a finds in the new state. Sums run over the even and the odd keys, in order, however
// a call is cut.
constexpr int STRIP = 2 * W;

NIH_TARGET static void matrix_found(const float *S, const float *a, i64 K, vf *found) {
    vf sums[2][2] = {{set1(0.0f), set1(0.0f)}, {set1(0.0f), set1(0.0f)}};
    for (i64 j = 0; j < K; j++)
        for (int i = 0; i < 2; i++) sums[j & 1][i] = fma(load(S + j * STRIP + i * W), set1(a[j]), sums[j & 1][i]);
    for (int i = 0; i < 2; i++) found[i] = add(sums[0][i], sums[1][i]);
}

struct Token {  // what a sweep reads of one token, and the next token's a
    const float *r, *k, *w, *b, *next;
};

struct Sums {  // of one strip, over the keys of one parity
    vf y[2], found[2];
};

template <bool DELTA, bool BEFORE>
NIH_INLINE void matrix_key(const Token &x, i64 j, float *S, const vf *v, const vf *found, Sums &sums) {
    const vf k = set1(x.k[j]), w = set1(x.w[j]), r = set1(x.r[j]);
    vf s[2], input[2] = {mul(v[0], k), mul(v[1], k)};
    for (int i = 0; i < 2; i++) s[i] = load(S + j * STRIP + i * W);
    for (int i = 0; BEFORE && i < 2; i++) sums.y[i] = fma(s[i], r, sums.y[i]);
    for (int i = 0; DELTA && i < 2; i++) input[i] = fma(found[i], set1(x.b[j]), input[i]);
    for (int i = 0; i < 2; i++) s[i] = fma(s[i], w, input[i]);
    for (int i = 0; !BEFORE && i < 2; i++) sums.y[i] = fma(s[i], r, sums.y[i]);
    for (int i = 0; DELTA && i < 2; i++) sums.found[i] = fma(s[i], set1(x.next[j]), sums.found[i]);
    for (int i = 0; i < 2; i++) store(S + j * STRIP + i * W, s[i]);
}

template <bool DELTA, bool BEFORE>
NIH_TARGET static void matrix_sweep(MatrixRows rows, i64 steps, i64 K, i64 c, float *S) {
    vf found[2] = {set1(0.0f), set1(0.0f)};
    if (DELTA) matrix_found(S, rows.a, K, found);
    for (i64 t = 0; t < steps; t++) {
        const i64 next = t + 1 < steps ? t + 1 : t;
        const Token x = {rows.r + t * K, rows.k + t * K, rows.w + t * K, rows.b + t * K, rows.a + next * K};
        const vf zero = set1(0.0f), v[2] = {load(rows.v + t * rows.pitch + c), load(rows.v + t * rows.pitch + c + W)};
        Sums even = {{zero, zero}, {zero, zero}}, odd = even;
        i64 j = 0;
        for (; j + 2 <= K; j += 2) {
            matrix_key<DELTA, BEFORE>(x, j, S, v, found, even);
            matrix_key<DELTA, BEFORE>(x, j + 1, S, v, found, odd);
        }
        if (j < K) matrix_key<DELTA, BEFORE>(x, j, S, v, found, even);
        for (int i = 0; i < 2; i++) {
            vf y = add(even.y[i], odd.y[i]);
            if (BEFORE) y = fma(v[i], set1(rows.bonus[t]), y);
            store(rows.y + t * rows.pitch + c + i * W, y);
            if (DELTA) found[i] = add(even.found[i], odd.found[i]);
        }
    }
}

template <class S> NIH_TARGET static void matrix_widen(const void *base, i64 first, i64 stride, i64 steps, i64 count, float *to, i64 pitch) {
    const S *from = (const S *)base + first;
    for (i64 t = 0; t < steps; t++, from += stride, to += pitch)
        for (i64 j = 0; j < count; j += W) {
            const int lanes = count - j < W ? (int)(count - j) : W;
            __builtin_prefetch(from + j + TOKENS * stride);
            store(to + j, load(from + j, lanes), lanes);
        }
}

// What the present token adds to an output per value: the sum of u k r over the keys
NIH_TARGET static float matrix_bonus(const float *u, const float *k, const float *r, i64 K) {
    vf sum = set1(0.0f);
    for (i64 j = 0; j < K; j += W) {
        const int lanes = K - j < W ? (int)(K - j) : W;
        sum = fma(mul(load(u + j, lanes), load(k + j, lanes)), load(r + j, lanes), sum);
    }
    float parts[W], result = 0.0f;
    store(parts, sum);
    for (int i = 0; i < W; i++) result += parts[i];
    return result;
}

template <class S> NIH_TARGET static void matrix_stage(const MatrixArgs &g, Head at, MatrixRows rows) {
    const i64 group = at.head / g.shared;
    matrix_widen<S>(g.r, at.row * g.r_b + at.t0 * g.r_t + group * g.r_h, g.r_t, at.steps, g.K, rows.r, g.K);
    matrix_widen<S>(g.k, at.row * g.k_b + at.t0 * g.k_t + group * g.k_h, g.k_t, at.steps, g.K, rows.k, g.K);
    matrix_widen<S>(g.v, at.row * g.v_b + at.t0 * g.v_t + at.head * g.v_h, g.v_t, at.steps, g.V, rows.v, rows.pitch);
    if (g.a) {
        matrix_widen<S>(g.a, at.row * g.a_b + at.t0 * g.a_t + at.head * g.a_h, g.a_t, at.steps, g.K, rows.a, g.K);
        matrix_widen<S>(g.b, at.row * g.b_b + at.t0 * g.b_t + at.head * g.b_h, g.b_t, at.steps, g.K, rows.b, g.K);
    }
    for (i64 t = 0; g.u && t < at.steps; t++) rows.bonus[t] = matrix_bonus(rows.u, rows.k + t * g.K, rows.r + t * g.K, g.K);
}

// e^x of x <= 0 as a factor that is applied again and again: Taylor's polynomial, whose own error is 5e-9, so that nothing but the last
// rounding is left, and no bias adds up. 0 below 2^-126.
NIH_INLINE vf factor(vf x) {
    x = min(set1(80.0f), max(set1(-110.0f), x));
    const vf n = rint(mul(x, set1(1.44269504f))), r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
    vf p = fma(set1(1.98412698e-4f), r, set1(1.38888889e-3f));
    p = fma(p, r, set1(8.33333333e-3f));
    p = fma(p, r, set1(4.16666667e-2f));
    p = fma(p, r, set1(0.166666667f));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r, set1(1.0f));
    return scale(fma(p, r, set1(1.0f)), n);
}

template <class S> NIH_TARGET static void matrix_decay(const MatrixArgs &g, Head at, MatrixRows rows) {
    const S *from = (const S *)g.decay + at.row * g.decay_b + at.t0 * g.decay_t + at.head / g.decays * g.decay_h;
    for (i64 t = 0; t < at.steps; t++, from += g.decay_t) {
        const vf single = factor(set1(nih_float(*from)));
        for (i64 j = 0; j < g.K; j += W) {
            const int lanes = g.K - j < W ? (int)(g.K - j) : W;
            if (!g.single) __builtin_prefetch(from + j + TOKENS * g.decay_t);
            store(rows.w + t * g.K + j, g.single ? single : factor(load(from + j, lanes)), lanes);
        }
    }
}

template <class S> NIH_TARGET static void matrix_write(const MatrixArgs &g, Head at, MatrixRows rows) {
    S *to = (S *)g.y + at.row * g.y_b + at.t0 * g.y_t + at.head * g.y_h;
    for (i64 t = 0; t < at.steps; t++, to += g.y_t)
        for (i64 c = 0; c < g.V; c += W) store(to + c, load(rows.y + t * rows.pitch + c), g.V - c < W ? (int)(g.V - c) : W);
}

// ---- products of matrices ------------------------------------------------------------------------------------------

constexpr int PANEL = 2 * W;                         // columns that a tile of registers holds
constexpr int SIDE = W == 16 ? 12 : W == 8 ? 6 : 4;  // and its rows, at most

// sum (R, PANEL) += a (R, depth) x b (depth, PANEL), in the order of depth
template <int R> NIH_INLINE void multiply(const float *a, i64 a_row, const float *b, i64 b_row, i64 depth, vf (&sum)[R][2]) {
    for (i64 d = 0; d < depth; d++, b += b_row) {
        const vf left = load(b), right = load(b + W);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const vf x = set1(a[r * a_row + d]);
            sum[r][0] = fma(x, left, sum[r][0]);
            sum[r][1] = fma(x, right, sum[r][1]);
        }
    }
}

template <class S> NIH_INLINE void widen(const S *from, i64 count, float *to) {
    for (i64 d = 0; d < count; d += W) {
        const int lanes = count - d < W ? (int)(count - d) : W;
        store(to + d, load(from + d, lanes), lanes);
    }
}

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

// The first SQUARE of some lines (count, depth) as columns of a panel (depth, PANEL), with zeros for those beyond `count`.
// `lines` holds SQUARE of them, PITCH apart; depth is at most DEPTH.
template <class S> NIH_INLINE void turn(const S *from, i64 stride, i64 count, i64 depth, float *to, float *lines) {
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

#include "cpu_attention.h"
#include "cpu_linear.h"
#include "cpu_elements.h"

template <class S> constexpr Typed typed() {
    return {wkv_span<S, true, false>, wkv_span<S, false, true>, wkv_span<S, true, true>,
            scan_span<S, true, false>, scan_span<S, false, true>, scan_span<S, true, true>,
            conv_span<S>, conv_state<S>, matrix_stage<S>, matrix_decay<S>, matrix_write<S>, attend<S>, linear<S>,
            rms_norm<S>, swiglu<S>, rotary<S>};
}

constexpr Path path = {{typed<float>(), typed<bf16>(), typed<f16>()}, wkv_fold, scan_fold, STRIP,
                       {matrix_sweep<false, false>, matrix_sweep<true, false>, matrix_sweep<false, true>, matrix_sweep<true, true>},
                       SIDE, PANEL};

}  // namespace NIH_PATH

#undef NIH_INLINE
#undef NIH_PATH
#undef NIH_WIDTH
#undef NIH_TARGET
