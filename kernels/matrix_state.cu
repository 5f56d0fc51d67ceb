// The matrix state on a GPU, token by token. LANES lanes share a value of a head: each holds OWN keys of its row of the state in registers, in
// groups of four that take turns with the other lanes'. A block stages TILE tokens of its head in shared memory, a tile ahead of the one that is
// computed; what a finds and what r reads are sums over a row, which a butterfly adds up. Every state sees the same operations in the same order
// wherever a call is cut, so a cut changes no bit.
//
// Compiled with NIH_KEYS (K, filled up to whole groups), NIH_LANES, NIH_THREADS, NIH_DELTA (a and b are given) and NIH_BEFORE (u is given). Grid (heads, blocks of values, rows). Launch and layout: matrix_state.py and core.h.
#include "core.h"

#ifndef NIH_KEYS
#define NIH_KEYS 64
#endif
#ifndef NIH_LANES
#define NIH_LANES 4
#endif
#ifndef NIH_THREADS
#define NIH_THREADS 256
#endif
#ifndef NIH_DELTA
#define NIH_DELTA 1
#endif
#ifndef NIH_BEFORE
#define NIH_BEFORE 0
#endif

enum {
    KEYS = NIH_KEYS,
    LANES = NIH_LANES,
    OWN = KEYS / LANES,                               // keys of a lane; those beyond K stay 0
    GROUPS = OWN / 4,
    THREADS = NIH_THREADS,
    VALUES = THREADS / LANES,
    TILE = KEYS <= 64 ? 16 : KEYS <= 128 ? 8 : 4,
    WORDS = (TILE * KEYS + THREADS - 1) / THREADS,  // of r, k, decay, a and b each, that a thread stages
    ITEMS = (TILE * VALUES + THREADS - 1) / THREADS,  // of v
    DELTA = NIH_DELTA,
    BEFORE = NIH_BEFORE,
};

struct Tile {
    alignas(16) float r[TILE][KEYS], k[TILE][KEYS], w[TILE][KEYS];
    alignas(16) float a[DELTA ? TILE : 1][KEYS], b[DELTA ? TILE : 1][KEYS];
    float v[TILE][VALUES];
    float bonus[TILE];
};

// What a thread has read of the next tile.
template <class S> struct Words {
    S r[WORDS], k[WORDS], a[DELTA ? WORDS : 1], b[DELTA ? WORDS : 1], v[ITEMS];
    float decay[WORDS];
};

// e^x of x <= 0, by the same polynomial as on CPUs: it is taken once per token and key, but applied again and again. 0 below 2^-126.
NIH_FN float matrix_factor(float x) {
    const float y = x < -110.0f ? -110.0f : x;
    NihWord whole, result;
    whole.f = nih_fma(y, 1.44269504f, 12582912.0f);  // 1.5 * 2^23: no room is left for fraction bits
    const float n = whole.f - 12582912.0f, rest = nih_fma(n, 2.12194440e-4f, nih_fma(n, -0.693359375f, y));
    float p = nih_fma(1.98412698e-4f, rest, 1.38888889e-3f);
    p = nih_fma(p, rest, 8.33333333e-3f);
    p = nih_fma(p, rest, 4.16666667e-2f);
    p = nih_fma(p, rest, 0.166666667f);
    p = nih_fma(p, rest, 0.5f);
    p = nih_fma(p, rest, 1.0f);
    result.f = nih_fma(p, rest, 1.0f);
    result.u += (whole.u - 0x4b400000u) << 23;
    return x != x ? x : n < -125.5f ? 0.0f : result.f;
}

NIH_FN float matrix_number(const void *base, i64 place, i64 dtype) {
    if (dtype == NIH_F32) return ((const float *)base)[place];
    return dtype == NIH_BF16 ? nih_float(((const bf16 *)base)[place]) : nih_float(((const f16 *)base)[place]);
}

// Reads the tile from token t0 on, of which `left` tokens belong to the row.
template <class S> NIH_FN void matrix_fetch(const MatrixArgs &g, i64 row, i64 t0, int left, Words<S> &in) {
    const i64 head = blockIdx.x, group = head / g.shared, slow = head / g.decays;
    const S *r = (const S *)g.r + row * g.r_b + t0 * g.r_t + group * g.r_h, *k = (const S *)g.k + row * g.k_b + t0 * g.k_t + group * g.k_h;
    const S *a = (const S *)g.a + row * g.a_b + t0 * g.a_t + head * g.a_h, *b = (const S *)g.b + row * g.b_b + t0 * g.b_t + head * g.b_h;
    const S *v = (const S *)g.v + row * g.v_b + t0 * g.v_t + head * g.v_h;
    const i64 decay = row * g.decay_b + t0 * g.decay_t + slow * g.decay_h;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const int word = threadIdx.x + i * THREADS, token = word / KEYS, j = word % KEYS;
        const bool live = token < left && j < (int)g.K;
        in.r[i] = live ? r[token * g.r_t + j] : S();
        in.k[i] = live ? k[token * g.k_t + j] : S();
        if (DELTA) in.a[i] = live ? a[token * g.a_t + j] : S();
        if (DELTA) in.b[i] = live ? b[token * g.b_t + j] : S();
        in.decay[i] = live ? matrix_number(g.decay, decay + token * g.decay_t + (g.single ? 0 : j), g.decay_dtype) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int word = threadIdx.x + i * THREADS, token = word / VALUES;
        const i64 value = (i64)blockIdx.y * VALUES + word % VALUES;
        in.v[i] = token < left && value < g.V ? v[token * g.v_t + value] : S();
    }
}

template <class S> NIH_FN void matrix_stage(const Words<S> &in, Tile &tile) {
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const int word = threadIdx.x + i * THREADS, token = word / KEYS, j = word % KEYS;
        if (TILE * KEYS % THREADS && token >= TILE) break;
        tile.r[token][j] = nih_float(in.r[i]);
        tile.k[token][j] = nih_float(in.k[i]);
        tile.w[token][j] = matrix_factor(in.decay[i]);
        if (DELTA) tile.a[token][j] = nih_float(in.a[i]);
        if (DELTA) tile.b[token][j] = nih_float(in.b[i]);
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int word = threadIdx.x + i * THREADS;
        if (TILE * VALUES % THREADS && word >= TILE * VALUES) break;
        tile.v[word / VALUES][word % VALUES] = nih_float(in.v[i]);
    }
}

// What a present token adds to an output per value: one thread per token adds up u k r.
NIH_FN void matrix_bonus(const MatrixArgs &g, Tile &tile) {
    const int token = threadIdx.x;
    if (token >= TILE) return;
    const float *u = g.u + (i64)blockIdx.x * g.K;
    float sum = 0.0f;
    for (int j = 0; j < (int)g.K; j++) sum = nih_fma(u[j] * tile.k[token][j], tile.r[token][j], sum);
    tile.bonus[token] = sum;
}

NIH_FN float matrix_sum(const float (&sums)[4]) {
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
#pragma unroll
    for (int width = LANES / 2; width; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
    return sum;
}

NIH_FN float matrix_read(const float *x, int lane, const float (&s)[OWN]) {
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < GROUPS; n++) {
        const float4 four = *(const float4 *)(x + (n * LANES + lane) * 4);
        sums[0] = nih_fma(s[4 * n], four.x, sums[0]);
        sums[1] = nih_fma(s[4 * n + 1], four.y, sums[1]);
        sums[2] = nih_fma(s[4 * n + 2], four.z, sums[2]);
        sums[3] = nih_fma(s[4 * n + 3], four.w, sums[3]);
    }
    return matrix_sum(sums);
}

NIH_FN void matrix_push(const Tile &tile, int t, int lane, float v, float found, float (&s)[OWN]) {
#pragma unroll
    for (int n = 0; n < GROUPS; n++) {
        const int j = (n * LANES + lane) * 4;
        const float4 k = *(const float4 *)(tile.k[t] + j), w = *(const float4 *)(tile.w[t] + j), b = *(const float4 *)(tile.b[DELTA ? t : 0] + j);
        s[4 * n] = nih_fma(s[4 * n], w.x, DELTA ? nih_fma(found, b.x, v * k.x) : v * k.x);
        s[4 * n + 1] = nih_fma(s[4 * n + 1], w.y, DELTA ? nih_fma(found, b.y, v * k.y) : v * k.y);
        s[4 * n + 2] = nih_fma(s[4 * n + 2], w.z, DELTA ? nih_fma(found, b.z, v * k.z) : v * k.z);
        s[4 * n + 3] = nih_fma(s[4 * n + 3], w.w, DELTA ? nih_fma(found, b.w, v * k.w) : v * k.w);
    }
}

// Advances a row of the state by `left` tokens, and writes their outputs to `y`, where this thread is the one that writes.
template <class S>
NIH_FN void matrix_advance(const Tile &tile, int left, int lane, int value, bool writes, S *y, i64 stride, float (&s)[OWN]) {
#pragma unroll 1
    for (int t = 0; t < left; t++, y += stride) {
        const float v = tile.v[t][value], found = DELTA ? matrix_read(tile.a[DELTA ? t : 0], lane, s) : 0.0f;
        float output = BEFORE ? nih_fma(v, tile.bonus[t], matrix_read(tile.r[t], lane, s)) : 0.0f;
        matrix_push(tile, t, lane, v, found, s);
        if (!BEFORE) output = matrix_read(tile.r[t], lane, s);
        if (writes) nih_store(y, output);
    }
}

NIH_FN int matrix_left(i64 steps, i64 t0) { return steps - t0 < TILE ? (int)(steps - t0) : (int)TILE; }

template <class S> NIH_FN void matrix_row(const MatrixArgs &g, i64 row, float (&s)[OWN], Tile &tile) {
    const int lane = threadIdx.x % LANES, value = threadIdx.x / LANES;
    const i64 i = (i64)blockIdx.y * VALUES + value, steps = nih_row_length(g.lengths, row, g.T);
    const bool writes = lane == 0 && i < g.V;
    S *y = (S *)g.y + row * g.y_b + blockIdx.x * g.y_h + i;
    Words<S> in;
    matrix_fetch(g, row, 0, matrix_left(steps, 0), in);
    for (i64 t0 = 0; t0 < steps; t0 += TILE) {
        matrix_stage(in, tile);
        __syncthreads();
        if (BEFORE) {
            matrix_bonus(g, tile);
            __syncthreads();
        }
        matrix_fetch(g, row, t0 + TILE, matrix_left(steps, t0 + TILE), in);
        matrix_advance(tile, matrix_left(steps, t0), lane, value, writes, y + t0 * g.y_t, g.y_t, s);
        __syncthreads();
    }
    for (i64 t = steps + lane; i < g.V && t < g.T; t += LANES) nih_store(y + t * g.y_t, 0.0f);
}

template <class S> NIH_FN void matrix_block(const MatrixArgs &g) {
    __shared__ Tile tile;
    const int lane = threadIdx.x % LANES;
    const i64 i = (i64)blockIdx.y * VALUES + threadIdx.x / LANES;
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        const i64 first = ((row * g.H + blockIdx.x) * g.V + i) * g.K;
        float s[OWN];
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int j = (n / 4 * LANES + lane) * 4 + n % 4;
            s[n] = g.state && i < g.V && j < (int)g.K ? g.state[first + j] : 0.0f;
        }
        matrix_row<S>(g, row, s, tile);
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int j = (n / 4 * LANES + lane) * 4 + n % 4;
            if (i < g.V && j < (int)g.K) g.state_out[first + j] = s[n];
        }
    }
}

#define NIH_KERNELS_OF(name, S) \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) matrix_state_advance_##name(const MatrixArgs g) { matrix_block<S>(g); }

NIH_KERNELS_OF(f32, float)
NIH_KERNELS_OF(bf16, bf16)
NIH_KERNELS_OF(f16, f16)
