// The selective scan on a GPU, in one pass over time. LANES lanes share a channel; each holds OWN of its states in registers and reads all
// tokens. A block stages TILE tokens of CHANNELS channels in shared memory: what depends on token and channel alone (softplus, gate,
// skip) is computed once, then each lane advances its states and a butterfly adds up the outputs. Every state sees the same operations
// in the same order wherever a call is cut, so a cut changes no bit.
//
// Compiled with NIH_STATES = N, NIH_LANES and NIH_THREADS. Grid (1, blocks of channels, rows). Launch and layout: selective_scan.py and core.h.
#include "core.h"

#ifndef NIH_STATES
#define NIH_STATES 16
#endif
#ifndef NIH_LANES
#define NIH_LANES 8
#endif
#ifndef NIH_THREADS
#define NIH_THREADS 128
#endif

enum {
    N = NIH_STATES,
    LANES = NIH_LANES,
    OWN = (N + LANES - 1) / LANES,               // states of a lane; the last lanes may own fewer, or none: theirs stay 0
    THREADS = NIH_THREADS,
    CHANNELS = THREADS / LANES,
    TILE = 32,
    ITEMS = TILE / LANES,                        // (token, channel) pairs that a thread stages
    WORDS = (TILE * N + THREADS - 1) / THREADS,  // of B, and of C, that a thread stages
};

struct Tile {
    float2 steps[TILE][CHANNELS];  // delta, delta u
    float B[TILE][LANES * OWN], C[TILE][LANES * OWN];
    float y[TILE][CHANNELS];       // sum of C h
};

// A thread's place in the block: it stages every LANES-th token of one channel, and owns states of another.
struct Place {
    int token, column;  // what it stages
    int lane, owned;    // whose states it owns; column and owned count channels within the block
    i64 c;              // the channel of `column`
    bool inside;
};

NIH_FN Place scan_place(const ScanArgs &g) {
    const int thread = threadIdx.x;
    const i64 c = (i64)blockIdx.y * CHANNELS + thread % CHANNELS;
    return {thread / CHANNELS, thread % CHANNELS, thread % LANES, thread / LANES, c, c < g.channels};
}

// Where a thread reads next, and what it has read: a tile ahead of the one that is computed.
template <class S> struct Reader {
    const S *u, *delta, *z, *B, *C;
    S us[ITEMS], deltas[ITEMS], zs[ITEMS], Bs[WORDS], Cs[WORDS];
};

template <class S> NIH_FN void scan_open(const ScanArgs &g, const Place &at, i64 row, Reader<S> &in) {
    const int word = threadIdx.x;
    in.u = (const S *)g.u + row * g.u_b + at.token * g.u_t + at.c;
    in.delta = (const S *)g.delta + row * g.d_b + at.token * g.d_t + at.c;
    in.z = (const S *)g.z + row * g.z_b + at.token * g.z_t + at.c;
    in.B = (const S *)g.Bm + row * g.B_b + word / N * g.B_t + word % N;
    in.C = (const S *)g.Cm + row * g.C_b + word / N * g.C_t + word % N;
}

// Offset of a thread's i-th word of B or C from its first. Where N does not divide the threads, tokens and states both move on.
NIH_FN i64 scan_offset(int i, i64 stride) {
    const int first = threadIdx.x, word = first + i * THREADS;
    if (THREADS % N == 0) return i * (THREADS / N) * stride;
    return (word / N - first / N) * stride + (word % N - first % N);
}

// Reads the next tile, of which `left` tokens belong to the row.
template <class S> NIH_FN void scan_fetch(const ScanArgs &g, const Place &at, int left, Reader<S> &in) {
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const bool live = at.inside && at.token + i * LANES < left;
        in.us[i] = live ? in.u[i * LANES * g.u_t] : S();
        in.deltas[i] = live ? in.delta[i * LANES * g.d_t] : S();
        in.zs[i] = live && g.z ? in.z[i * LANES * g.z_t] : S();
    }
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const int token = ((int)threadIdx.x + i * THREADS) / N;
        const bool live = token < left;
        in.Bs[i] = live ? in.B[scan_offset(i, g.B_t)] : S();
        in.Cs[i] = live ? in.C[scan_offset(i, g.C_t)] : S();
    }
    in.u += TILE * g.u_t;
    in.delta += TILE * g.d_t;
    in.z += TILE * g.z_t;
    in.B += TILE * g.B_t;
    in.C += TILE * g.C_t;
}

// Tokens beyond the row's end get delta 0 and B 0, which keep a state as it is.
template <class S> NIH_FN void scan_stage(const Reader<S> &in, const Place &at, int left, float bias, Tile &tile) {
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int t = at.token + i * LANES;
        const float delta = t < left ? nih_softplus(nih_float(in.deltas[i]) + bias) : 0.0f;
        tile.steps[t][at.column] = {delta, delta * nih_float(in.us[i])};
    }
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
        const int word = threadIdx.x + i * THREADS;
        if (TILE * N % THREADS && word >= TILE * N) break;
        tile.B[word / N][word % N] = nih_float(in.Bs[i]);
        tile.C[word / N][word % N] = nih_float(in.Cs[i]);
    }
}

// Adds `sums` over the lanes of a channel, in halves that shrink: lane i is left with the sum of token i, in the first place.
template <int WIDTH> NIH_FN void scan_add(float (&sums)[LANES], int lane) {
    const bool upper = lane & WIDTH;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        const float kept = upper ? sums[i + WIDTH] : sums[i], sent = upper ? sums[i] : sums[i + WIDTH];
        sums[i] = kept + __shfl_xor_sync(0xffffffffu, sent, WIDTH);
    }
    if constexpr (WIDTH > 1) scan_add<WIDTH / 2>(sums, lane);
}

NIH_FN void scan_advance(Tile &tile, const Place &at, const float (&rate)[OWN], float (&h)[OWN]) {
    for (int t = 0; t < TILE; t += LANES) {
        float sums[LANES];
#pragma unroll
        for (int i = 0; i < LANES; i++) {
            const float2 step = tile.steps[t + i][at.owned];
            const float *B = tile.B[t + i] + at.lane * OWN, *C = tile.C[t + i] + at.lane * OWN;
            sums[i] = 0.0f;
#pragma unroll
            for (int n = 0; n < OWN; n++) {
                h[n] = nih_fma(nih_exp2(step.x * rate[n]), h[n], step.y * B[n]);
                sums[i] = n ? nih_fma(C[n], h[n], sums[i]) : C[n] * h[n];
            }
        }
        scan_add<LANES / 2>(sums, at.lane);
        tile.y[t + at.lane][at.owned] = sums[0];
    }
}

NIH_FN int scan_left(i64 steps, i64 t0) { return steps - t0 < TILE ? (int)(steps - t0) : (int)TILE; }

template <class S>
NIH_FN void scan_row(const ScanArgs &g, const Place &at, i64 row, const float (&rate)[OWN], float (&h)[OWN], Tile &tile) {
    const i64 steps = nih_row_length(g.lengths, row, g.T);
    const float skip = g.D && at.inside ? g.D[at.c] : 0.0f, bias = g.bias && at.inside ? g.bias[at.c] : 0.0f;
    S *y = (S *)g.y + row * g.y_b + at.token * g.y_t + at.c;
    Reader<S> in;
    scan_open(g, at, row, in);
    scan_fetch(g, at, scan_left(steps, 0), in);
    for (i64 t0 = 0; t0 < steps; t0 += TILE, y += TILE * g.y_t) {
        const int left = scan_left(steps, t0);
        S us[ITEMS], zs[ITEMS];
#pragma unroll
        for (int i = 0; i < ITEMS; i++) us[i] = in.us[i], zs[i] = in.zs[i];
        scan_stage(in, at, left, bias, tile);
        __syncthreads();
        scan_fetch(g, at, scan_left(steps, t0 + TILE), in);
        scan_advance(tile, at, rate, h);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            const int t = at.token + i * LANES;
            const float sum = nih_fma(skip, nih_float(us[i]), tile.y[t][at.column]);
            if (at.inside && t < left) nih_store(y + i * LANES * g.y_t, g.z ? sum * nih_silu(nih_float(zs[i])) : sum);
        }
    }
    y = (S *)g.y + row * g.y_b + at.c;
    for (i64 t = steps + at.token; at.inside && t < g.T; t += LANES) nih_store(y + t * g.y_t, 0.0f);
}

template <class S> NIH_FN void scan_block(const ScanArgs &g) {
    __shared__ Tile tile;
    const Place at = scan_place(g);
    const i64 c = (i64)blockIdx.y * CHANNELS + at.owned;
    float rate[OWN], h[OWN];
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        const int state = at.lane * OWN + n;
        const float slope = c < g.channels && state < N ? g.A[c * N + state] * 1.44269504f : 0.0f;
        rate[n] = slope < -1e30f ? -1e30f : slope;  // a rate of -inf times a delta of 0 would be NaN
    }
    for (int i = threadIdx.x; LANES * OWN > N && i < TILE * LANES * OWN; i += THREADS) {
        tile.B[0][i] = 0.0f;
        tile.C[0][i] = 0.0f;
    }
    __syncthreads();
    for (i64 row = blockIdx.z; row < g.B; row += gridDim.z) {
        const i64 first = row * N * g.channels + c;
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int state = at.lane * OWN + n;
            h[n] = g.state && c < g.channels && state < N ? g.state[first + state * g.channels] : 0.0f;
        }
        scan_row<S>(g, at, row, rate, h, tile);
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int state = at.lane * OWN + n;
            if (c < g.channels && state < N) g.state_out[first + state * g.channels] = h[n];
        }
    }
}

#define NIH_KERNELS_OF(name, S) \
    extern "C" __global__ void __launch_bounds__(THREADS) selective_scan_advance_##name(const ScanArgs g) { scan_block<S>(g); }

NIH_KERNELS_OF(f32, float)
NIH_KERNELS_OF(bf16, bf16)
NIH_KERNELS_OF(f16, f16)
