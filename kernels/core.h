// Shared by the C++ and the CUDA sources: argument blocks, chunk lengths, storage types and the scalar mathematics.
//
// Letters: B batch, T time, C or D channels, N states of a channel, K taps of the convolution; of the matrix state, H heads, V values and
// K keys of a head.
// Sequences are (B, T, channels) with any batch and time stride and contiguous channels; states are fp32, planar, contiguous.
// Every field is 8 bytes wide, so that ctypes and all compilers agree on the layout. The header includes nothing: NVRTC has no system headers.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define NIH_FN __host__ __device__ __forceinline__
#else
#define NIH_FN static inline
#endif

typedef long long i64;

enum { NIH_F32 = 0, NIH_BF16 = 1, NIH_F16 = 2 };

// Time is cut into chunks of constant length, counted from the start of the call. A result therefore depends neither on the
// number of threads nor on the batch, and a call that is cut at a multiple of the chunk gives the same bits. The CUDA scan and the matrix
// state read time in one piece: they may be cut anywhere.
enum { WKV4_CHUNK = 256, SCAN_CHUNK = 1024, CONV_CHUNK = 64 };

// The maximum before the first token: below any key, finite so that differences with it are never inf - inf.
#define NIH_LOWEST (-1e38f)

struct Wkv4Args {
    const float *w, *u;      // (C): decay added to the exponent per step, <= 0; bonus of the present token
    const void *k, *v;       // (B, T, C)
    void *y;                 // (B, T, C)
    const float *state;      // (B, 3, C): numerator, denominator, running maximum; null: nothing seen yet
    float *state_out;        // (B, 3, C)
    const i64 *lengths;      // (B) or null: rows are T long
    float *scratch;          // CUDA: (B, chunks, 3, C)
    i64 B, T, C;
    i64 k_b, k_t, v_b, v_t, y_b, y_t;
    i64 dtype;
    i64 threads, simd;       // CPU only
};

struct ScanArgs {
    const void *u, *delta, *z;  // (B, T, D); z may be null
    const float *A;             // (D, N)
    const void *Bm, *Cm;        // (B, T, N)
    const float *D, *bias;      // (D) or null
    void *y;                    // (B, T, D)
    const float *state;         // (B, N, D) or null: zeros
    float *state_out;           // (B, N, D)
    const i64 *lengths;         // (B) or null
    float *scratch;             // unused
    i64 B, T, channels, N;
    i64 u_b, u_t, d_b, d_t, z_b, z_t, B_b, B_t, C_b, C_t, y_b, y_t;
    i64 dtype;
    i64 threads, simd;          // CPU only
};

struct ConvArgs {
    const void *x;         // (B, T, D)
    const float *w;        // (D, K)
    const float *bias;     // (D) or null
    void *y;               // (B, T, D)
    const float *state;    // (B, K - 1, D), oldest input first; null: zeros
    float *state_out;      // (B, K - 1, D)
    const i64 *lengths;    // (B) or null
    i64 B, T, D, K;
    i64 x_b, x_t, y_b, y_t;
    i64 dtype;
    i64 threads, simd;     // CPU only
};

struct MatrixArgs {
    const void *r, *k;           // (B, T, H / shared, K): `shared` heads in turn read the same
    const void *v;               // (B, T, H, V)
    const void *decay;           // (B, T, H / decays, K), or (B, T, H / decays, 1) where `single`; of type `decay_dtype`
    const void *a, *b;           // (B, T, H, K), or both null
    const float *u;              // (H, K), or null: outputs are read after the update
    void *y;                     // (B, T, H, V)
    const float *state;          // (B, H, V, K) or null: zeros
    float *state_out;            // (B, H, V, K)
    const i64 *lengths;          // (B) or null
    i64 B, T, H, V, K;
    i64 shared, decays, single, decay_dtype;
    i64 r_b, r_t, r_h, k_b, k_t, k_h, v_b, v_t, v_h, decay_b, decay_t, decay_h;
    i64 a_b, a_t, a_h, b_b, b_t, b_h, y_b, y_t, y_h;
    i64 dtype;
    i64 threads, simd;           // CPU only
};

struct AttendArgs {              // CPU only
    const void *q;               // (H, T, D): of the last T of N tokens
    const void *k, *v;           // (G, N, D): H / G heads in turn attend to the same
    void *y;                     // (H, T, D)
    i64 H, G, T, N, D;
    i64 q_h, q_t, k_h, k_t, v_h, v_t, y_h, y_t;
    double scale;                // of the products of queries and keys
    i64 dtype;
    i64 threads, simd;
};

struct LinearArgs {              // CPU only
    const void *x;               // (M, K)
    const void *weight;          // (N, K)
    const void *bias;            // (N) or null
    void *y;                     // (M, N)
    i64 M, N, K;
    i64 x_m, w_n, y_m;
    i64 dtype;
    i64 threads, simd;
};

struct NormArgs {                // CPU only
    const void *x;               // (M, C)
    const void *weight;          // (C)
    void *y;                     // (M, C)
    i64 M, C;
    i64 x_m, y_m;
    i64 twice;                   // round before the weight as well
    double eps, offset;          // what is added to the mean square, and to the weight
    i64 dtype;
    i64 threads, simd;
};

struct GateArgs {                // CPU only
    const void *gate, *up;       // (M, C)
    void *y;                     // (M, C)
    i64 M, C;
    i64 gate_m, up_m, y_m;
    i64 dtype;
    i64 threads, simd;
};

struct RotaryArgs {              // CPU only
    const void *x;               // (B, H, T, D)
    const void *cos, *sin;       // (B, T, D)
    void *y;                     // (B, H, T, D)
    i64 B, H, T, D;
    i64 x_b, x_h, x_t, cos_b, cos_t, sin_b, sin_t, y_b, y_h, y_t;
    i64 dtype;
    i64 threads, simd;
};

NIH_FN i64 nih_row_length(const i64 *lengths, i64 row, i64 steps) {
    if (!lengths) return steps;
    i64 n = lengths[row];
    return n < 0 ? 0 : n > steps ? steps : n;
}

// ---- storage types -------------------------------------------------------------------------------------------------

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

union NihWord { float f; unsigned u; };

NIH_FN float nih_float(float x) { return x; }

NIH_FN float nih_float(bf16 x) {
    NihWord w;
    w.u = (unsigned)x.bits << 16;
    return w.f;
}

NIH_FN float nih_float(f16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    unsigned sign = (unsigned)(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    NihWord w;
    if (rest >= 0x7c00u) {
        w.u = 0x7f800000u | (rest & 0x3ffu) << 13;
    } else if (rest >= 0x400u) {
        w.u = (rest << 13) + 0x38000000u;
    } else {
        w.f = (float)rest * 5.9604645e-8f;  // 2^-24: subnormals, of which no step may be one in float32, where they are flushed
    }
    w.u |= sign;
    return w.f;
#endif
}

NIH_FN void nih_store(float *p, float x) { *p = x; }

NIH_FN void nih_store(bf16 *p, float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(p->bits) : "f"(x));
#else
    NihWord w;
    w.f = x;
    if ((w.u & 0x7fffffffu) > 0x7f800000u) {
        p->bits = (unsigned short)(w.u >> 16 | 0x40u);
    } else {
        p->bits = (unsigned short)((w.u + 0x7fffu + (w.u >> 16 & 1u)) >> 16);
    }
#endif
}

NIH_FN void nih_store(f16 *p, float x) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(p->bits) : "f"(x));
#else
    NihWord w;
    w.f = x;
    unsigned sign = w.u >> 16 & 0x8000u, rest = w.u & 0x7fffffffu, half;
    if (rest > 0x7f800000u) {
        half = 0x7e00u;
    } else if (rest >= 0x47800000u) {
        half = 0x7c00u;
    } else if (rest < 0x38800000u) {  // subnormal: a last place of 1/2 is the unit of the subnormals, so this rounds
        w.u = rest;
        w.f += 0.5f;
        half = w.u - 0x3f000000u;
    } else {
        half = (rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u) >> 13;
    }
    p->bits = (unsigned short)(sign | half);
#endif
}

// ---- scalar mathematics of the CUDA kernels ------------------------------------------------------------------------

// What an emulation on a CPU computes in place of the GPU's instruction.
#ifndef NIH_EX2
#define NIH_EX2 __builtin_exp2f
#endif

NIH_FN float nih_abs(float x) {
#ifdef __CUDA_ARCH__
    return fabsf(x);
#else
    return __builtin_fabsf(x);
#endif
}

NIH_FN float nih_fma(float x, float y, float z) {
#ifdef __CUDA_ARCH__
    return fmaf(x, y, z);
#else
    return __builtin_fmaf(x, y, z);
#endif
}

// The processor's own 2^x: within two units in the last place, but not evenly so. Values below 2^-126 are 0.
NIH_FN float nih_ex2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return NIH_EX2(x);
#endif
}

// 2^x for x <= 0 as a factor that is applied thousands of times. Next to 1, where a factor fades so slowly that the instruction's
// bias would add up, it is a polynomial, whose last operation rounds to nearest: (2^x - 1) / x by the quadratic of least relative
// error on [-1/16, 0], 1e-7. Further off, a factor forgets its errors within 23 steps.
NIH_FN float nih_exp2(float x) {
    const float slope = nih_fma(x, nih_fma(x, 0.0546101779f, 0.240205571f), 0.693147123f);
    const float far = nih_ex2(x), near = nih_fma(x, slope, 1.0f);
    return nih_abs(x) < 0.0625f ? near : far;
}

NIH_FN float nih_div(float x, float y) {
#ifdef __CUDA_ARCH__
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(y));
    return x * inverse;
#else
    return x / y;
#endif
}

// e^-|x|, as a factor that is applied again and again
NIH_FN float nih_decay(float x) { return nih_exp2(nih_abs(x) * -1.44269504f); }

// e^-|x|, as a weight that is used once
NIH_FN float nih_weight(float x) { return nih_ex2(nih_abs(x) * -1.44269504f); }

// log(1 + e^x), relatively exact also where it is tiny: log1p(e) = 2 atanh(e / (2 + e)).
NIH_FN float nih_softplus(float x) {
    float e = nih_weight(x), s = nih_div(e, 2.0f + e), q = s * s;
    float p = ((0.280119844f * q + 0.280018058f) * q + 0.400215272f) * q + 0.666664163f;
    return (x > 0.0f ? x : 0.0f) + (q * p * s + 2.0f * s);
}

NIH_FN float nih_silu(float x) {
    float e = nih_weight(x);
    return nih_div(x < 0.0f ? x * e : x, 1.0f + e);
}
