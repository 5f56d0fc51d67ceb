// WKV4 as public kernels compute it: one thread per channel, sequential over time, two exponentials per pair. Kept for comparison only.
// Grid (blocks of 32 threads, 1, 1).
#include "core.h"

template <class S> NIH_FN void run(const Wkv4Args &g) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, row = i / g.C, c = i % g.C;
    if (row >= g.B) return;
    const S *k = (const S *)g.k + row * g.k_b + c, *v = (const S *)g.v + row * g.v_b + c;
    S *y = (S *)g.y + row * g.y_b + c;
    const float w = g.w[c], u = g.u[c];
    float a = 0.0f, b = 0.0f, p = NIH_LOWEST;
    for (i64 t = 0; t < g.T; t++) {
        const float key = nih_float(k[t * g.k_t]), value = nih_float(v[t * g.v_t]);
        float q = p > u + key ? p : u + key, kept = nih_exp2((p - q) * 1.44269504f), fresh = nih_exp2((u + key - q) * 1.44269504f);
        nih_store(y + t * g.y_t, nih_div(kept * a + fresh * value, kept * b + fresh));
        q = p + w > key ? p + w : key, kept = nih_exp2((p + w - q) * 1.44269504f), fresh = nih_exp2((key - q) * 1.44269504f);
        a = kept * a + fresh * value, b = kept * b + fresh, p = q;
    }
    float *state = g.state_out + row * 3 * g.C + c;
    state[0] = a, state[g.C] = b, state[2 * g.C] = p;
}

extern "C" __global__ void wkv4_sequential_read_f32(const Wkv4Args g) { run<float>(g); }
extern "C" __global__ void wkv4_sequential_read_bf16(const Wkv4Args g) { run<bf16>(g); }
extern "C" __global__ void wkv4_sequential_read_f16(const Wkv4Args g) { run<f16>(g); }
