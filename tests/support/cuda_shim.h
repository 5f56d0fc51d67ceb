// Lets g++ compile the CUDA sources: blocks and threads become loops. The kernels use no shared memory and no barriers, so running their
// threads one after the other is a faithful emulation of all but the timing.
#pragma once

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)

struct Index {
    unsigned x, y, z;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static Index blockIdx, threadIdx, blockDim, gridDim;

template <class Args>
static void emulate_grid(void (*kernel)(const Args), const Args &args, unsigned chunks, unsigned blocks, unsigned rows, unsigned threads) {
    gridDim = {chunks, blocks, rows};
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < rows; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < blocks; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < chunks; blockIdx.x++)
                for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) kernel(args);
}

#define NIH_EMULATE(Args)                                                                                                            \
    extern "C" void emulate(void (*kernel)(const Args), const Args *args, unsigned chunks, unsigned blocks, unsigned rows, unsigned threads) { \
        emulate_grid(kernel, *args, chunks, blocks, rows, threads);                                                                  \
    }
