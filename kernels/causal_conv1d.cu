// Causal depthwise convolution and SiLU on a GPU. A thread computes one channel of one chunk of time and keeps the last inputs in registers.
// Compiled with NIH_TAPS = K. Grid (chunks, blocks of channels, rows). Launch and layout: causal_conv1d.py and core.h.
#include "core.h"

#ifndef NIH_TAPS
#define NIH_TAPS 4
#endif

enum { K = NIH_TAPS, STEPS = 8 };

// The input at time t of a row, which may be a carried one (t < 0).
template <class S> NIH_FN float conv_input(const ConvArgs &g, i64 row, i64 t, i64 c) {
    if (t >= 0) return nih_float(((const S *)g.x)[row * g.x_b + t * g.x_t + c]);
    return g.state ? g.state[(row * (K - 1) + K - 1 + t) * g.D + c] : 0.0f;
}

// `seen` holds the last K inputs; its first place is free.
NIH_FN float conv_output(float (&seen)[K], const float (&taps)[K], float bias, float x) {
    float sum = bias;
#pragma unroll
    for (int j = 0; j < K - 1; j++) {
        seen[j] = seen[j + 1];
        sum += taps[j] * seen[j];
    }
    seen[K - 1] = x;
    return nih_silu(sum + taps[K - 1] * x);
}

template <class S> NIH_FN void conv_span(const ConvArgs &g, i64 row, i64 t0, int steps, i64 c) {
    float taps[K], seen[K];
#pragma unroll
    for (int j = 0; j < K; j++) taps[j] = g.w[c * K + j];
    seen[0] = 0.0f;
#pragma unroll
    for (int j = 1; j < K; j++) seen[j] = conv_input<S>(g, row, t0 - K + j, c);
    const float bias = g.bias ? g.bias[c] : 0.0f;
    const S *x = (const S *)g.x + row * g.x_b + t0 * g.x_t + c;
    S *y = (S *)g.y + row * g.y_b + t0 * g.y_t + c;
    int t = 0;
    for (; t + STEPS <= steps; t += STEPS, x += STEPS * g.x_t, y += STEPS * g.y_t) {
        S xs[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; i++) xs[i] = x[i * g.x_t];
#pragma unroll
        for (int i = 0; i < STEPS; i++) nih_store(y + i * g.y_t, conv_output(seen, taps, bias, nih_float(xs[i])));
    }
    for (; t < steps; t++, x += g.x_t, y += g.y_t) nih_store(y, conv_output(seen, taps, bias, nih_float(*x)));
}

template <class S> NIH_FN void conv_chunk(const ConvArgs &g) {
    const i64 c = (i64)blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, t0 = chunk * CONV_CHUNK;
    if (c >= g.D) return;
    const i64 end = t0 + CONV_CHUNK < g.T ? t0 + CONV_CHUNK : g.T;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        const i64 length = nih_row_length(g.lengths, row, g.T), left = length - t0;
        const int steps = left < 0 ? 0 : left < CONV_CHUNK ? (int)left : (int)CONV_CHUNK;
        if (steps) conv_span<S>(g, row, t0, steps, c);
        for (i64 t = t0 + steps; t < end; t++) nih_store((S *)g.y + row * g.y_b + t * g.y_t + c, 0.0f);
        if (chunk) continue;
        for (int j = 0; j < K - 1; j++)
            g.state_out[(row * (K - 1) + j) * g.D + c] = conv_input<S>(g, row, length - K + 1 + j, c);
    }
}

#define NIH_KERNELS_OF(name, S)                                                                                            \
    extern "C" __global__ void __launch_bounds__(64) causal_conv1d_convolve_##name(const ConvArgs g) { conv_chunk<S>(g); }

NIH_KERNELS_OF(f32, float)
NIH_KERNELS_OF(bf16, bf16)
NIH_KERNELS_OF(f16, f16)
