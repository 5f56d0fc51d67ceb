// What the GPU's 2^x and ours are at given places: w holds x, the first plane of the state the instruction, the second our factor.
// Grid (blocks of 32 threads, 1, 1).
#include "core.h"

NIH_FN void read(const Wkv4Args &g) {
    const i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= g.C) return;
    g.state_out[c] = nih_ex2(g.w[c]);
    g.state_out[g.C + c] = nih_exp2(g.w[c]);
}

extern "C" __global__ void ex2_read_f32(const Wkv4Args g) { read(g); }
extern "C" __global__ void ex2_read_bf16(const Wkv4Args g) { read(g); }
extern "C" __global__ void ex2_read_f16(const Wkv4Args g) { read(g); }
