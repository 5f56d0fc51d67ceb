// WKV4, selective scan, causal convolution, matrix state, causal attention, products of matrices and what lies between them, for CPUs: plain C functions over the argument blocks of core.h, loaded with ctypes.
//
// Every row is folded chunk by chunk in the same way whether its chunks are computed one after the other (each thread has its own rows and
// channels) or side by side (threads share a row's time); so the bits of a result don't depend on the number of threads. The matrix state
// is read token by token, each head by one thread.
#include "core.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int BLOCK = 64;  // channels that one task works on: whole cache lines of a row for every storage type
constexpr int AHEAD = 8;   // rows that are prefetched ahead: rows are far apart, which no hardware prefetcher follows
constexpr int ROWS = 64;   // steps of the scan whose inputs are staged in the first-level cache
constexpr int KEYS = 128;  // keys of attention that are staged in the second-level cache
constexpr int COLUMNS = 96; // outputs of a product that one task computes
constexpr int DEPTH = 256; // inputs that are summed before they are added to what was summed before
constexpr int PITCH = DEPTH + 16; // of staged rows of that many inputs, whose places in the cache differ
constexpr int SQUARES = 8 * PITCH; // lines of the largest square that is turned
constexpr int TOKENS = 16; // steps of the matrix state whose inputs are staged there, beside a strip of the state

struct Part {  // what a task works on
    i64 row, channel, t0, steps;
    int channels;
};

struct ScanRows {  // staged inputs: delta, delta u, y (ROWS, W) and B, C (ROWS, N)
    float *delta, *du, *y, *B, *C;
};

struct MatrixRows {  // staged inputs of one head: r, k, w, a, b (ROWS, K), v, y (ROWS, pitch), the bonus of each token; and u (K)
    float *r, *k, *w, *a, *b, *v, *y, *bonus, *u;
    i64 pitch;       // values of a head, filled up with zeros to whole strips
};

struct Head {  // what a task of the matrix state works on
    i64 row, head, t0, steps;
};

struct AttendTask {  // what a task of attention works on: some tokens of the heads that share keys
    i64 group, t0, tokens;
};

struct AttendRows {  // queries and outputs of a task's heads and tokens (rows, D or width), a block of keys and values, and of each row
    float *query, *out, *keys, *values, *highest, *total;  // the highest score so far, and the sum of the weights lane by lane
    float *lines;                                          // keys that are being turned
    i64 D, width;                                          // channels, and those filled up to whole panels
    float unit;                                            // scores times this are exponents of two
};

struct LinearTask {  // what a task of a product works on
    i64 row, rows, column, columns;
    i64 next;  // the column at which the thread's next task probably begins
};

struct LinearRows {  // a block of the weights as panels, lines of it and rows of x in float32, and the sums (rows, COLUMNS)
    float *panels, *lines, *x, *sums;
};

typedef void (*WkvSpan)(const Wkv4Args &, Part, const float *, const float *, float *, float *);
typedef void (*ScanSpan)(const ScanArgs &, Part, const float *, float *, float *, ScanRows);

struct Typed {
    WkvSpan wkv_summarise, wkv_replay, wkv_both;
    ScanSpan scan_summarise, scan_replay, scan_both;
    void (*conv)(const ConvArgs &, Part, const float *, const float *);
    void (*conv_state)(const ConvArgs &, Part, i64);
    void (*matrix_stage)(const MatrixArgs &, Head, MatrixRows);
    void (*matrix_decay)(const MatrixArgs &, Head, MatrixRows);
    void (*matrix_write)(const MatrixArgs &, Head, MatrixRows);
    void (*attend)(const AttendArgs &, AttendTask, AttendRows);
    void (*linear)(const LinearArgs &, LinearTask, LinearRows);
    void (*rms_norm)(const NormArgs &, i64 row);
    void (*swiglu)(const GateArgs &, i64 row);
    void (*rotary)(const RotaryArgs &, i64 row);
};

struct Path {
    Typed types[3];
    void (*wkv_fold)(const float *, i64, float *, const float *);
    void (*scan_fold)(const float *, i64, float *, const float *);
    int strip;  // values that are advanced together
    void (*matrix_sweep[4])(MatrixRows, i64, i64, i64, float *);  // plain, with a and b, reading before the update, both
    int tile, panel;  // rows and columns of a product that stay in registers
};

// to[j][i] = from[i][j] of four rows and columns, all read before any is written
inline void transpose_four(const float *from, i64 from_stride, float *to, i64 to_stride) {
    float x[4][4];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) x[j][i] = from[i * from_stride + j];
    for (int j = 0; j < 4; j++) std::memcpy(to + j * to_stride, x[j], sizeof x[j]);
}

#define NIH_PATH portable
#define NIH_WIDTH 4
#define NIH_TARGET
#include "cpu_simd.h"

#if defined(__x86_64__)
#define NIH_PATH avx2
#define NIH_WIDTH 8
#define NIH_TARGET __attribute__((target("avx2,fma,f16c")))
#include "cpu_simd.h"

#define NIH_PATH avx512
#define NIH_WIDTH 16
#define NIH_TARGET __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
#include "cpu_simd.h"
#endif

const Path &path_of([[maybe_unused]] i64 simd) {
#if defined(__x86_64__)
    if (simd == 2) return avx512::path;
    if (simd == 1) return avx2::path;
#endif
    return portable::path;
}

// Decaying states end among the denormals, which some CPUs handle a hundred times slower: there they are zeros.
class FlushDenormals {
#if defined(__x86_64__)
    unsigned before;

  public:
    explicit FlushDenormals(i64 simd) : before(_mm_getcsr()) {
        if (simd) _mm_setcsr(before | 0x8040);
    }
    ~FlushDenormals() { _mm_setcsr(before); }
#else
  public:
    explicit FlushDenormals(i64) {}
#endif
};

struct Tasks {  // how a call is cut: rows x blocks of channels, and maybe chunks of time
    i64 rows, channels, chunk, per_row, threads;
    bool split_time;

    Tasks(i64 rows_, i64 channels_, i64 steps, i64 chunk_, i64 threads_, i64 work)
        : rows(rows_), channels(channels_), chunk(chunk_), per_row((channels_ + BLOCK - 1) / BLOCK) {
        threads = work < 1 << 15 ? 1 : threads_;
        split_time = threads >= 2 * count() && steps >= 2 * chunk;
    }
    i64 count() const { return rows * per_row; }
    Part at(i64 task) const {
        const i64 first = task % per_row * BLOCK;
        return {task / per_row, first, 0, 0, (int)std::min<i64>(BLOCK, channels - first)};
    }
};

void gather(float *to, const float *from, i64 stride, int count, float scale = 1.0f) {
    for (int i = 0; i < BLOCK; i++) to[i] = i < count && from ? from[i * stride] * scale : 0.0f;
}

void wkv_begin(float *state) {
    std::fill(state, state + 2 * BLOCK, 0.0f);
    std::fill(state + 2 * BLOCK, state + 3 * BLOCK, NIH_LOWEST);
}

void wkv_load_state(const Wkv4Args &g, Part at, float *state) {
    wkv_begin(state);
    if (!g.state) return;
    for (int i = 0; i < 3; i++)
        std::copy_n(g.state + (at.row * 3 + i) * g.C + at.channel, at.channels, state + i * BLOCK);
    for (int c = 0; c < BLOCK; c++) state[2 * BLOCK + c] = std::max(state[2 * BLOCK + c], NIH_LOWEST);
}

void wkv_store_state(const Wkv4Args &g, Part at, const float *state) {
    for (int i = 0; i < 3; i++)
        std::copy_n(state + i * BLOCK, at.channels, g.state_out + (at.row * 3 + i) * g.C + at.channel);
}

void clear_rows(void *y, i64 row_stride, i64 step_stride, i64 item, Part at, i64 from, i64 to) {
    for (i64 t = from; t < to; t++)
        std::memset((char *)y + (at.row * row_stride + t * step_stride + at.channel) * item, 0, at.channels * item);
}

i64 item_size(i64 dtype) { return dtype == NIH_F32 ? 4 : 2; }

void wkv_rows(const Wkv4Args &g, const Tasks &tasks) {
    const Path &path = path_of(g.simd);
    const Typed &typed = path.types[g.dtype];
#pragma omp parallel for schedule(dynamic) num_threads((int)tasks.threads) if (tasks.threads > 1)
    for (i64 task = 0; task < tasks.count(); task++) {
        FlushDenormals guard(g.simd);
        Part at = tasks.at(task);
        float w[BLOCK], u[BLOCK], state[3 * BLOCK], own[3 * BLOCK];
        gather(w, g.w + at.channel, 1, at.channels);
        gather(u, g.u + at.channel, 1, at.channels);
        wkv_load_state(g, at, state);
        const i64 length = nih_row_length(g.lengths, at.row, g.T);
        for (at.t0 = 0; at.t0 < length; at.t0 += WKV4_CHUNK) {
            at.steps = std::min<i64>(WKV4_CHUNK, length - at.t0);
            if (at.steps < WKV4_CHUNK) {
                typed.wkv_replay(g, at, w, u, state, own);
                break;
            }
            float replayed[3 * BLOCK];
            std::copy_n(state, 3 * BLOCK, replayed);
            wkv_begin(own);
            typed.wkv_both(g, at, w, u, replayed, own);
            path.wkv_fold(w, WKV4_CHUNK, state, own);
        }
        wkv_store_state(g, at, state);
        clear_rows(g.y, g.y_b, g.y_t, item_size(g.dtype), at, length, g.T);
    }
}

void wkv_time(const Wkv4Args &g, const Tasks &tasks) {
    const Path &path = path_of(g.simd);
    const Typed &typed = path.types[g.dtype];
    const i64 chunks = (g.T + WKV4_CHUNK - 1) / WKV4_CHUNK, size = 3 * BLOCK;
    std::vector<float> summary(tasks.count() * (chunks + 1) * size);
#pragma omp parallel num_threads((int)tasks.threads)
    {
        FlushDenormals guard(g.simd);
        float w[BLOCK], u[BLOCK], unused[3 * BLOCK] = {};
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < tasks.count() * chunks; i++) {
            Part at = tasks.at(i / chunks);
            const i64 chunk = i % chunks;
            at.t0 = chunk * WKV4_CHUNK;
            at.steps = WKV4_CHUNK;
            if (at.t0 + at.steps > nih_row_length(g.lengths, at.row, g.T)) continue;
            gather(w, g.w + at.channel, 1, at.channels);
            float *own = summary.data() + (i / chunks * (chunks + 1) + chunk) * size;
            wkv_begin(own);
            typed.wkv_summarise(g, at, w, u, unused, own);
        }
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < tasks.count(); task++) {
            Part at = tasks.at(task);
            gather(w, g.w + at.channel, 1, at.channels);
            float *own = summary.data() + task * (chunks + 1) * size, state[3 * BLOCK], before[3 * BLOCK];
            wkv_load_state(g, at, state);
            const i64 whole = nih_row_length(g.lengths, at.row, g.T) / WKV4_CHUNK;
            for (i64 chunk = 0; chunk < whole; chunk++, own += size) {
                std::copy_n(state, size, before);
                path.wkv_fold(w, WKV4_CHUNK, state, own);
                std::copy_n(before, size, own);
            }
            std::copy_n(state, size, own);
            wkv_store_state(g, at, state);
        }
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < tasks.count() * chunks; i++) {
            Part at = tasks.at(i / chunks);
            const i64 chunk = i % chunks, length = nih_row_length(g.lengths, at.row, g.T);
            at.t0 = chunk * WKV4_CHUNK;
            at.steps = std::max<i64>(0, std::min<i64>(WKV4_CHUNK, length - at.t0));
            gather(w, g.w + at.channel, 1, at.channels);
            gather(u, g.u + at.channel, 1, at.channels);
            float *state = summary.data() + (i / chunks * (chunks + 1) + chunk) * size;
            typed.wkv_replay(g, at, w, u, state, unused);
            if (at.steps && at.steps < WKV4_CHUNK) wkv_store_state(g, at, state);
            clear_rows(g.y, g.y_b, g.y_t, item_size(g.dtype), at, at.t0 + at.steps, std::min(g.T, at.t0 + WKV4_CHUNK));
        }
    }
}

struct ScanScratch {  // one thread's staged inputs and decay rates
    std::vector<float> memory;
    float *rate;
    ScanRows rows;

    explicit ScanScratch(i64 N) : memory(N * BLOCK + 3 * ROWS * 16 + 2 * ROWS * N) {
        rate = memory.data();
        rows.delta = rate + N * BLOCK;
        rows.du = rows.delta + ROWS * 16;
        rows.y = rows.du + ROWS * 16;
        rows.B = rows.y + ROWS * 16;
        rows.C = rows.B + ROWS * N;
    }
    void load_rate(const ScanArgs &g, Part at) {
        for (i64 n = 0; n < g.N; n++)
            gather(rate + n * BLOCK, g.A + at.channel * g.N + n, g.N, at.channels, 1.44269504f);
    }
};

void scan_load_state(const ScanArgs &g, Part at, float *state) {
    for (i64 n = 0; n < g.N; n++)
        gather(state + n * BLOCK, g.state ? g.state + (at.row * g.N + n) * g.channels + at.channel : nullptr, 1, at.channels);
}

void scan_store_state(const ScanArgs &g, Part at, const float *state) {
    for (i64 n = 0; n < g.N; n++)
        std::copy_n(state + n * BLOCK, at.channels, g.state_out + (at.row * g.N + n) * g.channels + at.channel);
}

void scan_rows(const ScanArgs &g, const Tasks &tasks) {
    const Path &path = path_of(g.simd);
    const Typed &typed = path.types[g.dtype];
    const i64 size = g.N * BLOCK;
#pragma omp parallel num_threads((int)tasks.threads) if (tasks.threads > 1)
    {
        FlushDenormals guard(g.simd);
        ScanScratch scratch(g.N);
        std::vector<float> memory(3 * size + BLOCK);
        float *state = memory.data(), *replayed = state + size, *own = replayed + size;
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < tasks.count(); task++) {
            Part at = tasks.at(task);
            scratch.load_rate(g, at);
            scan_load_state(g, at, state);
            const i64 length = nih_row_length(g.lengths, at.row, g.T);
            for (at.t0 = 0; at.t0 < length; at.t0 += SCAN_CHUNK) {
                at.steps = std::min<i64>(SCAN_CHUNK, length - at.t0);
                if (at.steps < SCAN_CHUNK) {
                    typed.scan_replay(g, at, scratch.rate, state, own, scratch.rows);
                    break;
                }
                std::copy_n(state, size, replayed);
                std::fill_n(own, size + BLOCK, 0.0f);
                typed.scan_both(g, at, scratch.rate, replayed, own, scratch.rows);
                path.scan_fold(scratch.rate, g.N, state, own);
            }
            scan_store_state(g, at, state);
            clear_rows(g.y, g.y_b, g.y_t, item_size(g.dtype), at, length, g.T);
        }
    }
}

void scan_time(const ScanArgs &g, const Tasks &tasks) {
    const Path &path = path_of(g.simd);
    const Typed &typed = path.types[g.dtype];
    const i64 chunks = (g.T + SCAN_CHUNK - 1) / SCAN_CHUNK, state_size = g.N * BLOCK, size = state_size + BLOCK;
    std::vector<float> summary(tasks.count() * (chunks + 1) * size);
#pragma omp parallel num_threads((int)tasks.threads)
    {
        FlushDenormals guard(g.simd);
        ScanScratch scratch(g.N);
        std::vector<float> memory(2 * size);
        float *state = memory.data(), *before = state + size;
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < tasks.count() * chunks; i++) {
            Part at = tasks.at(i / chunks);
            const i64 chunk = i % chunks;
            at.t0 = chunk * SCAN_CHUNK;
            at.steps = SCAN_CHUNK;
            if (at.t0 + at.steps > nih_row_length(g.lengths, at.row, g.T)) continue;
            scratch.load_rate(g, at);
            typed.scan_summarise(g, at, scratch.rate, state, summary.data() + (i / chunks * (chunks + 1) + chunk) * size, scratch.rows);
        }
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < tasks.count(); task++) {
            Part at = tasks.at(task);
            scratch.load_rate(g, at);
            scan_load_state(g, at, state);
            float *own = summary.data() + task * (chunks + 1) * size;
            const i64 whole = nih_row_length(g.lengths, at.row, g.T) / SCAN_CHUNK;
            for (i64 chunk = 0; chunk < whole; chunk++, own += size) {
                std::copy_n(state, state_size, before);
                path.scan_fold(scratch.rate, g.N, state, own);
                std::copy_n(before, state_size, own);
            }
            std::copy_n(state, state_size, own);
            scan_store_state(g, at, state);
        }
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < tasks.count() * chunks; i++) {
            Part at = tasks.at(i / chunks);
            const i64 chunk = i % chunks, length = nih_row_length(g.lengths, at.row, g.T);
            at.t0 = chunk * SCAN_CHUNK;
            at.steps = std::max<i64>(0, std::min<i64>(SCAN_CHUNK, length - at.t0));
            scratch.load_rate(g, at);
            float *prefix = summary.data() + (i / chunks * (chunks + 1) + chunk) * size;
            typed.scan_replay(g, at, scratch.rate, prefix, before, scratch.rows);
            if (at.steps && at.steps < SCAN_CHUNK) scan_store_state(g, at, prefix);
            clear_rows(g.y, g.y_b, g.y_t, item_size(g.dtype), at, at.t0 + at.steps, std::min(g.T, at.t0 + SCAN_CHUNK));
        }
    }
}

void conv_tasks(const ConvArgs &g, const Tasks &tasks) {
    const Typed &typed = path_of(g.simd).types[g.dtype];
    const i64 chunks = std::max<i64>(1, (g.T + tasks.chunk - 1) / tasks.chunk);
#pragma omp parallel num_threads((int)tasks.threads) if (tasks.threads > 1)
    {
        FlushDenormals guard(g.simd);
        std::vector<float> taps(g.K * BLOCK), bias(BLOCK);
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < tasks.count() * chunks; i++) {
            Part at = tasks.at(i / chunks);
            const i64 chunk = i % chunks, length = nih_row_length(g.lengths, at.row, g.T);
            at.t0 = chunk * tasks.chunk;
            at.steps = std::max<i64>(0, std::min<i64>(tasks.chunk, length - at.t0));
            for (i64 j = 0; j < g.K; j++) gather(taps.data() + j * BLOCK, g.w + at.channel * g.K + j, g.K, at.channels);
            gather(bias.data(), g.bias ? g.bias + at.channel : nullptr, 1, at.channels);
            typed.conv(g, at, taps.data(), bias.data());
            if (chunk == 0) typed.conv_state(g, at, length);
            clear_rows(g.y, g.y_b, g.y_t, item_size(g.dtype), at, at.t0 + at.steps, std::min(g.T, at.t0 + tasks.chunk));
        }
    }
}

struct MatrixScratch {  // one thread's staged inputs and state: strips of (K, strip) values
    static constexpr int LINE = 16, APART = 5 * LINE;  // floats of a cache line, and between arrays: their places in the cache differ
    std::vector<float> memory;
    MatrixRows rows;
    float *state;

    MatrixScratch(i64 V, i64 K, i64 strip) {
        rows.pitch = (V + strip - 1) / strip * strip;
        memory.resize(LINE + rows.pitch * K + TOKENS * (5 * K + 2 * rows.pitch + 1) + K + 9 * APART);
        float *next = memory.data() + (LINE - (uintptr_t)memory.data() / sizeof(float) % LINE) % LINE;
        const auto take = [&next](i64 size) { return std::exchange(next, next + size + APART); };
        state = take(rows.pitch * K);
        for (float **array : {&rows.r, &rows.k, &rows.w, &rows.a, &rows.b}) *array = take(TOKENS * K);
        for (float **array : {&rows.v, &rows.y}) *array = take(TOKENS * rows.pitch);
        rows.bonus = next;
        rows.u = next + TOKENS;
    }
};

// to (columns, rows) = from (rows, columns), transposed
void transpose(const float *from, i64 from_stride, i64 rows, i64 columns, float *to, i64 to_stride) {
    const i64 whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (i64 i = 0; i < whole_rows; i += 4)
        for (i64 j = 0; j < whole_columns; j += 4) transpose_four(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    for (i64 i = 0; i < rows; i++)
        for (i64 j = i < whole_rows ? whole_columns : 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

void matrix_load_state(const MatrixArgs &g, i64 task, i64 strip, const MatrixScratch &scratch) {
    const i64 size = g.V * g.K;
    if (!g.state || scratch.rows.pitch != g.V) std::fill_n(scratch.state, scratch.rows.pitch * g.K, 0.0f);
    for (i64 c = 0; g.state && c < g.V; c += strip)
        transpose(g.state + task * size + c * g.K, g.K, std::min(strip, g.V - c), g.K, scratch.state + c * g.K, strip);
}

void matrix_store_state(const MatrixArgs &g, i64 task, i64 strip, const MatrixScratch &scratch) {
    const i64 size = g.V * g.K;
    for (i64 c = 0; c < g.V; c += strip)
        transpose(scratch.state + c * g.K, strip, g.K, std::min(strip, g.V - c), g.state_out + task * size + c * g.K, g.K);
}

void matrix_heads(const MatrixArgs &g) {
    const Path &path = path_of(g.simd);
    const Typed &typed = path.types[g.dtype];
    const auto sweep = path.matrix_sweep[(g.u ? 2 : 0) + (g.a ? 1 : 0)];
    const i64 strip = path.strip, count = g.B * g.H, item = item_size(g.dtype);
    const int threads = count * g.T * g.V * g.K < 1 << 15 ? 1 : (int)g.threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FlushDenormals guard(g.simd);
        MatrixScratch scratch(g.V, g.K, strip);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < count; task++) {
            Head at = {task / g.H, task % g.H, 0, 0};
            const i64 length = nih_row_length(g.lengths, at.row, g.T);
            matrix_load_state(g, task, strip, scratch);
            if (g.u) std::copy_n(g.u + at.head * g.K, g.K, scratch.rows.u);
            for (; at.t0 < length; at.t0 += TOKENS) {
                at.steps = std::min<i64>(TOKENS, length - at.t0);
                typed.matrix_stage(g, at, scratch.rows);
                path.types[g.decay_dtype].matrix_decay(g, at, scratch.rows);
                for (i64 c = 0; c < g.V; c += strip) sweep(scratch.rows, at.steps, g.K, c, scratch.state + c * g.K);
                typed.matrix_write(g, at, scratch.rows);
            }
            matrix_store_state(g, task, strip, scratch);
            char *y = (char *)g.y + (at.row * g.y_b + at.head * g.y_h) * item;
            for (i64 t = length; t < g.T; t++) std::memset(y + t * g.y_t * item, 0, g.V * item);
        }
    }
}

struct AttendScratch {  // one thread's AttendRows
    std::vector<float> memory;
    AttendRows rows;

    AttendScratch(const AttendArgs &g, i64 count, i64 width) {
        constexpr i64 LINE = 16, WIDEST = 16, BEYOND = 8 * 2 * WIDEST;  // squares reach beyond the last channel
        memory.resize(count * (g.D + width + 1 + WIDEST) + KEYS * (g.D + width) + SQUARES + BEYOND + LINE);
        float *next = memory.data() + (LINE - (uintptr_t)memory.data() / sizeof(float) % LINE) % LINE;
        const auto take = [&next](i64 size) { return std::exchange(next, next + size); };
        rows.lines = take(SQUARES);
        rows.keys = take(KEYS * g.D + BEYOND);
        rows.values = take(KEYS * width);
        rows.out = take(count * width);
        rows.total = take(count * WIDEST);
        rows.query = take(count * g.D);
        rows.highest = next;
        rows.D = g.D;
        rows.width = width;
        rows.unit = (float)(g.scale * 1.4426950408889634);
    }
};

void attend_tasks(const AttendArgs &g) {
    const Path &path = path_of(g.simd);
    const auto attend = path.types[g.dtype].attend;
    const i64 each = g.H / g.G, least = 4 * path.tile;
    const int threads = g.H * g.T * g.N * g.D < 1 << 15 ? 1 : (int)g.threads;
    // So many rows that staging the keys costs little beside them, and so many tasks that threads seldom wait.
    i64 tokens = std::max(least, 256 / each / path.tile * path.tile);
    while (tokens > least && g.G * ((g.T + tokens - 1) / tokens) < 4 * threads) tokens = std::max(least, tokens / 2 / path.tile * path.tile);
    const i64 blocks = (g.T + tokens - 1) / tokens, width = (g.D + path.panel - 1) / path.panel * path.panel;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        FlushDenormals guard(g.simd);
        AttendScratch scratch(g, each * tokens, width);
#pragma omp for schedule(dynamic)
        for (i64 task = g.G * blocks - 1; task >= 0; task--) {  // the last tokens first: they see most
            const i64 t0 = task / g.G * tokens;
            attend(g, {task % g.G, t0, std::min(tokens, g.T - t0)}, scratch.rows);
        }
    }
}

// One thread's LinearRows. The thread keeps the memory: a product for one token takes less time than asking for it.
LinearRows linear_scratch(i64 count) {
    constexpr i64 LINE = 16, MOST_SIDE = 12;
    thread_local std::vector<float> memory;
    const i64 size = COLUMNS * DEPTH + SQUARES + MOST_SIDE * PITCH + count * COLUMNS + LINE;
    if ((i64)memory.size() < size) memory.resize(size);
    float *next = memory.data() + (LINE - (uintptr_t)memory.data() / sizeof(float) % LINE) % LINE;
    const auto take = [&next](i64 many) { return std::exchange(next, next + many); };
    LinearRows rows;
    rows.panels = take(COLUMNS * DEPTH);
    rows.lines = take(SQUARES);
    rows.x = take(MOST_SIDE * PITCH);
    rows.sums = next;
    return rows;
}

void linear_tasks(const LinearArgs &g) {
    const Path &path = path_of(g.simd);
    const auto linear = path.types[g.dtype].linear;
    constexpr i64 MOST = 720, LEAST = 120;
    const int threads = g.M * g.N * g.K < 1 << 18 ? 1 : (int)g.threads;
    const i64 groups = (g.N + COLUMNS - 1) / COLUMNS;
    // So many rows that turning the weights costs little beside them, and so many tasks that threads seldom wait.
    i64 count = std::min(MOST, g.M);
    while (threads > 1 && count >= 2 * LEAST && groups * ((g.M + count - 1) / count) < 3 * threads) count = (count / 2 + 11) / 12 * 12;
    const i64 blocks = (g.M + count - 1) / count;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const LinearRows rows = linear_scratch(count);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < groups * blocks; task++) {
            const i64 row = task / groups * count, column = task % groups * COLUMNS;
            linear(g, {row, std::min(count, g.M - row), column, std::min<i64>(COLUMNS, g.N - column), column + threads * COLUMNS}, rows);
        }
    }
}

// Runs `kernel` for each of `count` rows, of so many numbers in all; few are not worth waking threads.
template <class Args> void rows_of(const Args &g, i64 count, i64 numbers, void (*kernel)(const Args &, i64 row)) {
#pragma omp parallel for num_threads((int)g.threads) schedule(static) if (g.threads > 1 && numbers >= 1 << 15)
    for (i64 row = 0; row < count; row++) kernel(g, row);
}

template <class Args, class Run> int guarded(const Args *args, Run run) {
    try {
        run(*args);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

}  // namespace

extern "C" {

// The layout of the argument blocks: a loader that has another one must not call.
int nih_abi() {
    unsigned result = 0;
    for (size_t size : {sizeof(Wkv4Args), sizeof(ScanArgs), sizeof(ConvArgs), sizeof(MatrixArgs), sizeof(AttendArgs), sizeof(LinearArgs),
                        sizeof(NormArgs), sizeof(GateArgs), sizeof(RotaryArgs)})
        result = result * 67 + (unsigned)(size / 8);
    return (int)(result & 0x7fffffff);
}

// Best path that this processor runs: 0 portable, 1 AVX2 with FMA and F16C, 2 AVX-512 F, BW, DQ and VL.
int nih_simd() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
#else
    return 0;
#endif
}

// Whether this is one of Intel's processors, for which MKL is made.
int nih_intel() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
#else
    return 0;
#endif
}

// Each returns 0, or 1 if there is no memory for the scratch space.
int nih_wkv4(const Wkv4Args *args) {
    return guarded(args, [](const Wkv4Args &g) {
        const Tasks tasks(g.B, g.C, g.T, WKV4_CHUNK, g.threads, g.B * g.T * g.C);
        tasks.split_time ? wkv_time(g, tasks) : wkv_rows(g, tasks);
    });
}

int nih_selective_scan(const ScanArgs *args) {
    return guarded(args, [](const ScanArgs &g) {
        const Tasks tasks(g.B, g.channels, g.T, SCAN_CHUNK, g.threads, g.B * g.T * g.channels * g.N);
        tasks.split_time ? scan_time(g, tasks) : scan_rows(g, tasks);
    });
}

int nih_causal_conv1d(const ConvArgs *args) {
    return guarded(args, [](const ConvArgs &g) { conv_tasks(g, Tasks(g.B, g.D, g.T, 1024, g.threads, g.B * g.T * g.D)); });
}

int nih_matrix_state(const MatrixArgs *args) { return guarded(args, matrix_heads); }

int nih_causal_attention(const AttendArgs *args) { return guarded(args, attend_tasks); }

int nih_linear(const LinearArgs *args) { return guarded(args, linear_tasks); }

int nih_rms_norm(const NormArgs *args) {
    return guarded(args, [](const NormArgs &g) { rows_of(g, g.M, g.M * g.C, path_of(g.simd).types[g.dtype].rms_norm); });
}

int nih_rotary(const RotaryArgs *args) {
    return guarded(args, [](const RotaryArgs &g) {
        rows_of(g, g.B * g.T, g.B * g.T * g.H * g.D, path_of(g.simd).types[g.dtype].rotary);
    });
}

int nih_swiglu(const GateArgs *args) {
    return guarded(args, [](const GateArgs &g) { rows_of(g, g.M, g.M * g.C, path_of(g.simd).types[g.dtype].swiglu); });
}

}
