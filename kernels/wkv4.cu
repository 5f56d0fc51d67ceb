// WKV4 on a GPU: a parallel scan over time in three launches without barriers or atomics. `summarise` reads each whole chunk from
// nothing, `fold` carries the state over the summaries and leaves each chunk its prefix, `replay` reads the chunks again and writes y.
//
// A thread computes one channel of one chunk; grid (chunks, blocks of channels, rows). Launch and layout: wkv4.py and core.h.
#include "core.h"

enum { UNROLL = 8, AHEAD = 8 };  // steps, and summaries, that are loaded together

struct Wkv {
    float a, b, p;  // numerator and denominator in units of e^p
};

// One of the two weights is always 1, the other one e^-|difference|.
NIH_FN void wkv_push(Wkv &s, float w, float k, float v) {
    float p = s.p + w, d = k - p, e = nih_decay(d);
    float kept = d > 0.0f ? e : 1.0f, fresh = d > 0.0f ? 1.0f : e;
    s.a = kept * s.a + fresh * v;
    s.b = kept * s.b + fresh;
    s.p = d > 0.0f ? k : p;
}

NIH_FN float wkv_output(const Wkv &s, float u, float k, float v) {
    float d = u + k - s.p, e = nih_weight(d);
    float kept = d > 0.0f ? e : 1.0f, fresh = d > 0.0f ? 1.0f : e;
    float weight = kept * s.b + fresh;
    return weight == 0.0f ? 0.0f : nih_div(kept * s.a + fresh * v, weight);
}

NIH_FN void wkv_fold(Wkv &s, float decay, const Wkv &own) {
    float p = s.p + decay, d = own.p - p, e = nih_decay(d);
    float kept = d > 0.0f ? e : 1.0f, fresh = d > 0.0f ? 1.0f : e;
    s.a = kept * s.a + fresh * own.a;
    s.b = kept * s.b + fresh * own.b;
    s.p = d > 0.0f ? own.p : p;
}

NIH_FN Wkv wkv_load(const float *planes, i64 channels) {
    return {planes[0], planes[channels], planes[2 * channels]};
}

NIH_FN void wkv_store(float *planes, i64 channels, const Wkv &s) {
    planes[0] = s.a;
    planes[channels] = s.b;
    planes[2 * channels] = s.p;
}

NIH_FN Wkv wkv_carried(const Wkv4Args &g, i64 row, i64 c) {
    if (!g.state) return {0.0f, 0.0f, NIH_LOWEST};
    Wkv s = wkv_load(g.state + row * 3 * g.C + c, g.C);
    if (s.p < NIH_LOWEST) s.p = NIH_LOWEST;
    return s;
}

// Reads `steps` tokens; REPLAY writes the outputs too. Loads come in groups, so that many are in flight.
template <class S, bool REPLAY>
NIH_FN void wkv_span(const Wkv4Args &g, i64 row, i64 t0, int steps, i64 c, Wkv &s) {
    const S *k = (const S *)g.k + row * g.k_b + t0 * g.k_t + c, *v = (const S *)g.v + row * g.v_b + t0 * g.v_t + c;
    S *y = (S *)g.y + row * g.y_b + t0 * g.y_t + c;
    const float w = g.w[c] < -1e30f ? -1e30f : g.w[c], u = REPLAY ? g.u[c] : 0.0f;
    int t = 0;
    for (; t + UNROLL <= steps; t += UNROLL) {
        S ks[UNROLL], vs[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            ks[i] = k[i * g.k_t];
            vs[i] = v[i * g.v_t];
        }
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            float key = nih_float(ks[i]), value = nih_float(vs[i]);
            if (REPLAY) nih_store(y + i * g.y_t, wkv_output(s, u, key, value));
            wkv_push(s, w, key, value);
        }
        k += UNROLL * g.k_t;
        v += UNROLL * g.v_t;
        y += UNROLL * g.y_t;
    }
    for (; t < steps; t++, k += g.k_t, v += g.v_t, y += g.y_t) {
        float key = nih_float(*k), value = nih_float(*v);
        if (REPLAY) nih_store(y, wkv_output(s, u, key, value));
        wkv_push(s, w, key, value);
    }
}

NIH_FN float *wkv_slot(const Wkv4Args &g, i64 row, i64 chunk, i64 c) {
    const i64 chunks = (g.T + WKV4_CHUNK - 1) / WKV4_CHUNK;
    return g.scratch + (row * chunks + chunk) * 3 * g.C + c;
}

template <class S> NIH_FN void wkv_summarise(const Wkv4Args &g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, t0 = chunk * WKV4_CHUNK;
    if (c >= g.C) return;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        if (t0 + WKV4_CHUNK > nih_row_length(g.lengths, row, g.T)) continue;
        Wkv s = {0.0f, 0.0f, NIH_LOWEST};
        wkv_span<S, false>(g, row, t0, WKV4_CHUNK, c, s);
        wkv_store(wkv_slot(g, row, chunk, c), g.C, s);
    }
}

// Leaves in each slot the state before its chunk. The state after a row's last whole chunk is also the call's, unless a ragged chunk
// follows, whose replay overwrites it.
NIH_FN void wkv_fold_row(const Wkv4Args &g, i64 row, i64 c) {
    const i64 length = nih_row_length(g.lengths, row, g.T), whole = length / WKV4_CHUNK;
    const float decay = (g.w[c] < -1e30f ? -1e30f : g.w[c]) * (float)WKV4_CHUNK;
    Wkv s = wkv_carried(g, row, c);
    float *slot = wkv_slot(g, row, 0, c);
    i64 chunk = 0;
    for (; chunk + AHEAD <= whole; chunk += AHEAD) {
        Wkv own[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) own[i] = wkv_load(slot + i * 3 * g.C, g.C);
#pragma unroll
        for (int i = 0; i < AHEAD; i++, slot += 3 * g.C) {
            wkv_store(slot, g.C, s);
            wkv_fold(s, decay, own[i]);
        }
    }
    for (; chunk < whole; chunk++, slot += 3 * g.C) {
        const Wkv own = wkv_load(slot, g.C);
        wkv_store(slot, g.C, s);
        wkv_fold(s, decay, own);
    }
    if (whole * WKV4_CHUNK < length) wkv_store(slot, g.C, s);
    wkv_store(g.state_out + row * 3 * g.C + c, g.C, s);
}

template <class S> NIH_FN void wkv_replay(const Wkv4Args &g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, t0 = chunk * WKV4_CHUNK;
    if (c >= g.C) return;
    const i64 end = t0 + WKV4_CHUNK < g.T ? t0 + WKV4_CHUNK : g.T;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        const i64 left = nih_row_length(g.lengths, row, g.T) - t0;
        const int steps = left < 0 ? 0 : left < WKV4_CHUNK ? (int)left : (int)WKV4_CHUNK;
        Wkv s = wkv_carried(g, row, c);
        if (g.scratch && steps) s = wkv_load(wkv_slot(g, row, chunk, c), g.C);
        wkv_span<S, true>(g, row, t0, steps, c, s);
        if (steps ? steps < WKV4_CHUNK : !g.scratch) wkv_store(g.state_out + row * 3 * g.C + c, g.C, s);
        for (i64 t = t0 + steps; t < end; t++) nih_store((S *)g.y + row * g.y_b + t * g.y_t + c, 0.0f);
    }
}

extern "C" __global__ void __launch_bounds__(64) wkv4_fold(const Wkv4Args g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= g.C) return;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) wkv_fold_row(g, row, c);
}

#define NIH_KERNELS_OF(name, S)                                                                                        \
    extern "C" __global__ void __launch_bounds__(64) wkv4_summarise_##name(const Wkv4Args g) { wkv_summarise<S>(g); }  \
    extern "C" __global__ void __launch_bounds__(64) wkv4_replay_##name(const Wkv4Args g) { wkv_replay<S>(g); }

NIH_KERNELS_OF(f32, float)
NIH_KERNELS_OF(bf16, bf16)
NIH_KERNELS_OF(f16, f16)
