// The selective scan on a GPU: a parallel scan over time in three launches without barriers or atomics. `summarise` reads each whole
// chunk from zero states, `fold` carries the states over the summaries and leaves each chunk its prefix, `replay` reads the chunks again
// and writes y.
//
// A thread is one channel of one chunk and holds its N states in registers; B and C are the same for all threads of a warp. Compiled with
// NIH_STATES = N. Grid (chunks, blocks of channels, rows). Launch and layout: selective_scan.py and core.h.
#include "core.h"

#ifndef NIH_STATES
#define NIH_STATES 16
#endif

enum { N = NIH_STATES, STEPS = 4 };

struct Weights {
    float rate[N], skip, bias;  // rate: A log2(e)
};

NIH_FN Weights scan_weights(const ScanArgs &g, i64 c) {
    Weights w;
#pragma unroll
    for (int n = 0; n < N; n++) w.rate[n] = g.A[c * N + n] * 1.44269504f;
    w.skip = g.D ? g.D[c] : 0.0f;
    w.bias = g.bias ? g.bias[c] : 0.0f;
    return w;
}

template <class S> struct Wide {
    enum { ITEMS = 16 / sizeof(S), FITS = N % ITEMS == 0 };
};

NIH_FN void scan_unpack(unsigned word, float *to, float) {
    NihWord w;
    w.u = word;
    to[0] = w.f;
}

NIH_FN void scan_unpack(unsigned word, float *to, bf16) {
    scan_unpack(word << 16, to, 0.0f);
    scan_unpack(word & 0xffff0000u, to + 1, 0.0f);
}

NIH_FN void scan_unpack(unsigned word, float *to, f16) {
    to[0] = nih_float(f16{(unsigned short)word});
    to[1] = nih_float(f16{(unsigned short)(word >> 16)});
}

// Four floats, or eight halves, in one load where the rows are aligned to it.
template <class S, bool ALIGNED> NIH_FN void scan_row(const S *p, float (&to)[N]) {
    if (ALIGNED) {
#pragma unroll
        for (int n = 0; n < N; n += Wide<S>::ITEMS) {
            const uint4 words = *(const uint4 *)(p + n);
            const int step = Wide<S>::ITEMS / 4;
            scan_unpack(words.x, to + n, S());
            scan_unpack(words.y, to + n + step, S());
            scan_unpack(words.z, to + n + 2 * step, S());
            scan_unpack(words.w, to + n + 3 * step, S());
        }
    } else {
#pragma unroll
        for (int n = 0; n < N; n++) to[n] = nih_float(p[n]);
    }
}

// Whether all rows of B and C can be read in loads of 16 bytes.
template <class S> NIH_FN bool scan_aligned(const ScanArgs &g) {
    const unsigned long long strides = (unsigned long long)(g.B_b | g.B_t | g.C_b | g.C_t) * sizeof(S);
    return Wide<S>::FITS && (((unsigned long long)g.Bm | (unsigned long long)g.Cm | strides) & 15) == 0;
}

template <class S> struct ScanRow {  // where a thread reads and writes
    const S *u, *delta, *z, *B, *C;
    S *y;
};

template <class S> NIH_FN ScanRow<S> scan_at(const ScanArgs &g, i64 row, i64 t0, i64 c) {
    return {(const S *)g.u + row * g.u_b + t0 * g.u_t + c,
            (const S *)g.delta + row * g.d_b + t0 * g.d_t + c,
            g.z ? (const S *)g.z + row * g.z_b + t0 * g.z_t + c : 0,
            (const S *)g.Bm + row * g.B_b + t0 * g.B_t,
            (const S *)g.Cm + row * g.C_b + t0 * g.C_t,
            (S *)g.y + row * g.y_b + t0 * g.y_t + c};
}

// Reads COUNT tokens, whose loads all come first; REPLAY writes the outputs, otherwise `total` sums delta.
template <class S, int COUNT, bool REPLAY, bool ALIGNED>
NIH_FN void scan_steps(const ScanArgs &g, ScanRow<S> &at, const Weights &w, float (&h)[N], float &total) {
    S us[COUNT], deltas[COUNT], zs[COUNT] = {};
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        us[i] = at.u[i * g.u_t];
        deltas[i] = at.delta[i * g.d_t];
        if (REPLAY && at.z) zs[i] = at.z[i * g.z_t];
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const float u = nih_float(us[i]), delta = nih_softplus(nih_float(deltas[i]) + w.bias), input = delta * u;
        float b[N];
        scan_row<S, ALIGNED>(at.B, b);
        at.B += g.B_t;
#pragma unroll
        for (int n = 0; n < N; n++) h[n] = nih_exp2(delta * w.rate[n]) * h[n] + input * b[n];
        if (!REPLAY) {
            total += delta;
            continue;
        }
        float out[N], y = w.skip * u;
        scan_row<S, ALIGNED>(at.C, out);
        at.C += g.C_t;
#pragma unroll
        for (int n = 0; n < N; n++) y += out[n] * h[n];
        nih_store(at.y, at.z ? y * nih_silu(nih_float(zs[i])) : y);
        at.y += g.y_t;
    }
    at.u += COUNT * g.u_t;
    at.delta += COUNT * g.d_t;
    if (REPLAY && at.z) at.z += COUNT * g.z_t;
}

template <class S, bool REPLAY, bool ALIGNED>
NIH_FN void scan_loop(const ScanArgs &g, ScanRow<S> at, int steps, const Weights &w, float (&h)[N], float &total) {
    int t = 0;
    for (; t + STEPS <= steps; t += STEPS) scan_steps<S, STEPS, REPLAY, ALIGNED>(g, at, w, h, total);
    for (; t < steps; t++) scan_steps<S, 1, REPLAY, ALIGNED>(g, at, w, h, total);
}

template <class S, bool REPLAY>
NIH_FN void scan_span(const ScanArgs &g, i64 row, i64 t0, int steps, i64 c, const Weights &w, float (&h)[N], float &total) {
    const ScanRow<S> at = scan_at<S>(g, row, t0, c);
    if (scan_aligned<S>(g)) scan_loop<S, REPLAY, Wide<S>::FITS>(g, at, steps, w, h, total);
    else scan_loop<S, REPLAY, false>(g, at, steps, w, h, total);
}

// Slot of a chunk: N end states from zero (later: the prefix), then the sum of delta.
NIH_FN float *scan_slot(const ScanArgs &g, i64 row, i64 chunk, i64 c) {
    const i64 chunks = (g.T + SCAN_CHUNK - 1) / SCAN_CHUNK;
    return g.scratch + (row * chunks + chunk) * (N + 1) * g.channels + c;
}

NIH_FN void scan_load(const float *planes, i64 channels, float (&h)[N]) {
#pragma unroll
    for (int n = 0; n < N; n++) h[n] = planes ? planes[n * channels] : 0.0f;
}

NIH_FN void scan_store(float *planes, i64 channels, const float (&h)[N]) {
#pragma unroll
    for (int n = 0; n < N; n++) planes[n * channels] = h[n];
}

template <class S> NIH_FN void scan_summarise(const ScanArgs &g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, t0 = chunk * SCAN_CHUNK;
    if (c >= g.channels) return;
    const Weights w = scan_weights(g, c);
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        if (t0 + SCAN_CHUNK > nih_row_length(g.lengths, row, g.T)) continue;
        float h[N], total = 0.0f;
        scan_load(0, 0, h);
        scan_span<S, false>(g, row, t0, SCAN_CHUNK, c, w, h, total);
        float *slot = scan_slot(g, row, chunk, c);
        scan_store(slot, g.channels, h);
        slot[N * g.channels] = total;
    }
}

// One state of one channel. Leaves in each slot the state before its chunk. The state after a row's last whole chunk is also the call's,
// unless a ragged chunk follows, whose replay overwrites it.
NIH_FN void scan_fold_row(const ScanArgs &g, i64 row, i64 n, i64 c) {
    const i64 length = nih_row_length(g.lengths, row, g.T), whole = length / SCAN_CHUNK;
    const float rate = g.A[c * N + n] * 1.44269504f;
    const i64 plane = (row * N + n) * g.channels + c;
    float h = g.state ? g.state[plane] : 0.0f;
    float *slot = scan_slot(g, row, 0, c) + n * g.channels;
    const i64 to_total = (N - n) * g.channels, to_next = (N + 1) * g.channels;
#pragma unroll 4
    for (i64 chunk = 0; chunk < whole; chunk++, slot += to_next) {
        const float own = slot[0], total = slot[to_total];
        slot[0] = h;
        h = nih_exp2(total * rate) * h + own;
    }
    if (whole * SCAN_CHUNK < length) slot[0] = h;
    g.state_out[plane] = h;
}

template <class S> NIH_FN void scan_replay(const ScanArgs &g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, t0 = chunk * SCAN_CHUNK;
    if (c >= g.channels) return;
    const i64 end = t0 + SCAN_CHUNK < g.T ? t0 + SCAN_CHUNK : g.T;
    const Weights w = scan_weights(g, c);
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        const i64 left = nih_row_length(g.lengths, row, g.T) - t0;
        const int steps = left < 0 ? 0 : left < SCAN_CHUNK ? (int)left : (int)SCAN_CHUNK;
        const float *carried = g.state ? g.state + row * N * g.channels + c : 0;
        float h[N], total = 0.0f;
        scan_load(g.scratch && steps ? scan_slot(g, row, chunk, c) : carried, g.channels, h);
        scan_span<S, true>(g, row, t0, steps, c, w, h, total);
        if (steps ? steps < SCAN_CHUNK : !g.scratch) scan_store(g.state_out + row * N * g.channels + c, g.channels, h);
        for (i64 t = t0 + steps; t < end; t++) nih_store((S *)g.y + row * g.y_b + t * g.y_t + c, 0.0f);
    }
}

extern "C" __global__ void __launch_bounds__(64) selective_scan_fold(const ScanArgs g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= g.channels) return;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) scan_fold_row(g, row, blockIdx.x, c);
}

#define NIH_KERNELS_OF(name, S)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(64) selective_scan_summarise_##name(const ScanArgs g) { scan_summarise<S>(g); } \
    extern "C" __global__ void __launch_bounds__(64) selective_scan_replay_##name(const ScanArgs g) { scan_replay<S>(g); }

NIH_KERNELS_OF(f32, float)
NIH_KERNELS_OF(bf16, bf16)
NIH_KERNELS_OF(f16, f16)
