// The AVX-512 intrinsics of kernels/cpu_simd.h, each as two of AVX2: so its path runs on a processor without AVX-512. The results are those
// of the instructions, rounding included, because every one of them works lane by lane. Include before the source.
#pragma once

#include <immintrin.h>

#include <cmath>

#define SHIM __attribute__((target("avx2,fma,f16c"))) static inline

struct Shim512 {
    __m256 low, high;
};
struct Shim512i {
    __m256i low, high;
};

#define SHIM_BINARY(name)                                            \
    SHIM Shim512 shim_##name(Shim512 a, Shim512 b) {                 \
        return {_mm256_##name(a.low, b.low), _mm256_##name(a.high, b.high)}; \
    }
#define SHIM_BINARY_WHOLE(name, theirs)                              \
    SHIM Shim512i shim_##name(Shim512i a, Shim512i b) {              \
        return {_mm256_##theirs(a.low, b.low), _mm256_##theirs(a.high, b.high)}; \
    }
SHIM_BINARY(add_ps)
SHIM_BINARY(sub_ps)
SHIM_BINARY(mul_ps)
SHIM_BINARY(div_ps)
SHIM_BINARY(max_ps)
SHIM_BINARY(min_ps)
SHIM_BINARY_WHOLE(and_si512, and_si256)
SHIM_BINARY_WHOLE(or_si512, or_si256)
SHIM_BINARY_WHOLE(add_epi32, add_epi32)

SHIM Shim512 shim_set1_ps(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
SHIM Shim512 shim_setzero_ps() { return shim_set1_ps(0.0f); }
SHIM Shim512i shim_set1_epi32(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
SHIM Shim512 shim_loadu_ps(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SHIM void shim_storeu_ps(float *p, Shim512 x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
SHIM Shim512 shim_castsi512_ps(Shim512i x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }
SHIM Shim512i shim_castps_si512(Shim512 x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }
SHIM Shim512 shim_fmadd_ps(Shim512 a, Shim512 b, Shim512 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
SHIM Shim512i shim_slli_epi32(Shim512i x, int n) { return {_mm256_slli_epi32(x.low, n), _mm256_slli_epi32(x.high, n)}; }
SHIM Shim512i shim_srli_epi32(Shim512i x, int n) { return {_mm256_srli_epi32(x.low, n), _mm256_srli_epi32(x.high, n)}; }
SHIM Shim512i shim_cvtepu16_epi32(__m256i x) {
    return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
}
SHIM __m256i shim_cvtepi32_epi16(Shim512i x) {
    alignas(32) unsigned wide[16];
    alignas(32) unsigned short narrow[16];
    _mm256_store_si256((__m256i *)wide, x.low);
    _mm256_store_si256((__m256i *)(wide + 8), x.high);
    for (int i = 0; i < 16; i++) narrow[i] = (unsigned short)wide[i];
    return _mm256_load_si256((const __m256i *)narrow);
}
SHIM Shim512 shim_cvtph_ps(__m256i x) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}
#define shim_cvtps_ph(x, rounding) \
    _mm256_set_m128i(_mm256_cvtps_ph((x).high, (rounding) & 7), _mm256_cvtps_ph((x).low, (rounding) & 7))
#define shim_roundscale_ps(x, rounding) (Shim512{_mm256_round_ps((x).low, rounding), _mm256_round_ps((x).high, rounding)})
#define shim_cmp_ps_mask(a, b, how)                                          \
    (__mmask16)(_mm256_movemask_ps(_mm256_cmp_ps((a).low, (b).low, how)) |   \
                _mm256_movemask_ps(_mm256_cmp_ps((a).high, (b).high, how)) << 8)

// All ones in the lanes whose bit is set, of the eight from `first` on.
SHIM __m256i shim_lanes(__mmask16 m, int first) {
    const __m256i bits = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(m >> first), bits), bits);
}
SHIM Shim512i shim_mask_blend_epi32(__mmask16 m, Shim512i no, Shim512i yes) {
    return {_mm256_blendv_epi8(no.low, yes.low, shim_lanes(m, 0)), _mm256_blendv_epi8(no.high, yes.high, shim_lanes(m, 8))};
}
SHIM Shim512 shim_mask_blend_ps(__mmask16 m, Shim512 no, Shim512 yes) {
    return shim_castsi512_ps(shim_mask_blend_epi32(m, shim_castps_si512(no), shim_castps_si512(yes)));
}
// x 2^floor(n), rounded once: exact in double, whose narrowing rounds, and flushes, as the instruction does.
SHIM Shim512 shim_scalef_ps(Shim512 x, Shim512 n) {
    alignas(32) float value[16], power[16];
    _mm256_store_ps(value, x.low), _mm256_store_ps(value + 8, x.high);
    _mm256_store_ps(power, n.low), _mm256_store_ps(power + 8, n.high);
    for (int i = 0; i < 16; i++) {
        const double most = std::fmin(std::fmax((double)power[i], -400.0), 400.0);
        value[i] = std::isnan(power[i]) ? power[i] : (float)((double)value[i] * std::exp2(std::floor(most)));
    }
    return {_mm256_load_ps(value), _mm256_load_ps(value + 8)};
}

#define __m512 Shim512
#define __m512i Shim512i
#define _mm512_add_ps shim_add_ps
#define _mm512_sub_ps shim_sub_ps
#define _mm512_mul_ps shim_mul_ps
#define _mm512_div_ps shim_div_ps
#define _mm512_max_ps shim_max_ps
#define _mm512_min_ps shim_min_ps
#define _mm512_and_si512 shim_and_si512
#define _mm512_or_si512 shim_or_si512
#define _mm512_add_epi32 shim_add_epi32
#define _mm512_set1_ps shim_set1_ps
#define _mm512_setzero_ps shim_setzero_ps
#define _mm512_set1_epi32 shim_set1_epi32
#define _mm512_loadu_ps shim_loadu_ps
#define _mm512_storeu_ps shim_storeu_ps
#define _mm512_castsi512_ps shim_castsi512_ps
#define _mm512_castps_si512 shim_castps_si512
#define _mm512_fmadd_ps shim_fmadd_ps
#define _mm512_slli_epi32 shim_slli_epi32
#define _mm512_srli_epi32 shim_srli_epi32
#define _mm512_cvtepu16_epi32 shim_cvtepu16_epi32
#define _mm512_cvtepi32_epi16 shim_cvtepi32_epi16
#define _mm512_cvtph_ps shim_cvtph_ps
#define _mm512_cvtps_ph shim_cvtps_ph
#define _mm512_roundscale_ps shim_roundscale_ps
#define _mm512_cmp_ps_mask shim_cmp_ps_mask
#define _mm512_mask_blend_epi32 shim_mask_blend_epi32
#define _mm512_mask_blend_ps shim_mask_blend_ps
#define _mm512_scalef_ps shim_scalef_ps
