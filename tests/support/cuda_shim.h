// Lets g++ compile the CUDA sources: blocks become loops, and the threads of a block fibres, each of which runs until it meets the
// others at a barrier or a shuffle. Faithful in all but the timing: threads that meet at different places are an error, and every other
// round runs backwards, so that a missing barrier shows.
#pragma once

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <vector>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

// The GPU's exponential errs to one side: here the last place is always one too low, but for 2^0.
static inline float emulated_ex2(float x) {
    union { float f; unsigned u; } y;
    y.f = __builtin_exp2f(x);
    if (x != 0.0f && y.u >= 0x00800000u && y.u < 0x7f800000u) y.u--;
    return y.u < 0x00800000u ? 0.0f : y.f;
}
#define NIH_EX2 emulated_ex2

struct Index {
    unsigned x, y, z;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

static Index blockIdx, threadIdx, blockDim, gridDim;

struct Fibre {
    ucontext_t start;
    std::vector<char> stack = std::vector<char>(1 << 17);
    jmp_buf at;
    bool started = false, ended = false;
};

static jmp_buf scheduler;
static std::vector<Fibre *> fibres;
static void (*start_thread)();

// Returns to the scheduler, and from there once all threads of the block have come as far.
static __attribute__((noinline)) void meet() {
    if (!_setjmp(fibres[threadIdx.x]->at)) _longjmp(scheduler, 1);
}

static void live() {
    for (;;) {
        start_thread();
        fibres[threadIdx.x]->ended = true;
        meet();
    }
}

static __attribute__((noinline)) void resume(unsigned thread) {
    Fibre &fibre = *fibres[thread];
    threadIdx.x = thread;
    if (_setjmp(scheduler)) return;
    if (fibre.started) _longjmp(fibre.at, 1);
    fibre.started = true;
    setcontext(&fibre.start);
}

static void emulate_block(unsigned threads) {
    while (fibres.size() < threads) {
        Fibre *fibre = new Fibre;
        getcontext(&fibre->start);
        fibre->start.uc_stack.ss_sp = fibre->stack.data();
        fibre->start.uc_stack.ss_size = fibre->stack.size();
        fibre->start.uc_link = nullptr;
        makecontext(&fibre->start, live, 0);
        fibres.push_back(fibre);
    }
    for (unsigned i = 0; i < threads; i++) fibres[i]->ended = false;
    for (unsigned round = 0, ended = 0; !ended; round++) {
        for (unsigned i = 0; i < threads; i++) resume(round & 1 ? threads - 1 - i : i);
        for (unsigned i = 0; i < threads; i++) ended += fibres[i]->ended;
        if (ended && ended < threads) {
            fprintf(stderr, "%u of %u threads ended while the others wait\n", ended, threads);
            abort();
        }
    }
}

static inline void __syncthreads() { meet(); }

static float shuffled[2][1024];
static unsigned shuffles[1024];

static inline float __shfl_xor_sync(unsigned, float value, unsigned mask) {
    const unsigned self = threadIdx.x, turn = shuffles[self]++ & 1;
    shuffled[turn][self] = value;
    meet();
    return shuffled[turn][self ^ mask];
}

// One launch. `Args` is copied as on a GPU.
template <class Args>
static void emulate_grid(void (*kernel)(const Args), const Args &args, unsigned chunks, unsigned blocks, unsigned rows, unsigned threads) {
    static void (*running)(const Args);
    static const Args *given;
    running = kernel;
    given = &args;
    start_thread = [] { running(*given); };
    gridDim = {chunks, blocks, rows};
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < rows; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < blocks; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < chunks; blockIdx.x++) emulate_block(threads);
}

#define NIH_EMULATE(Args)                                                                                                            \
    extern "C" void emulate(void (*kernel)(const Args), const Args *args, unsigned chunks, unsigned blocks, unsigned rows, unsigned threads) { \
        emulate_grid(kernel, *args, chunks, blocks, rows, threads);                                                                  \
    }
