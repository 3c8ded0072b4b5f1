// Vectors of float32 and of small integers, as wide as the processor has them, and the few functions of them that a
// transformer needs. Products are fused explicitly and nowhere else, so that all ways through the code round alike.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define APART __attribute__((noinline))  // registers are handed out better in small functions
#define UNROLL _Pragma("GCC unroll 16")
#define FENCE asm volatile("" ::: "memory")  // loads stay on their side: again is cheaper than a register for long

namespace underlay {

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define UNDERLAY_AVX512
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__) && defined(__FMA__)
#define UNDERLAY_AVX2
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__ARM_NEON)
#define UNDERLAY_NEON
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int PANEL = 16;               // output columns that lie side by side
constexpr int PARTS = PANEL / LANES;    // vectors of a panel

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef int8_t B __attribute__((vector_size(4 * LANES)));
typedef int8_t FEW_BYTES __attribute__((vector_size(LANES)));

template <class V, class T> INLINE V load_as(const T* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}
INLINE F load(const float* from) { return load_as<F>(from); }
template <class V, class T> INLINE void store(T* to, V v) { memcpy(to, &v, sizeof v); }

INLINE F splat(float x) {
#if defined(UNDERLAY_AVX512)
    return (F)_mm512_set1_ps(x);
#elif defined(UNDERLAY_AVX2)
    return (F)_mm256_set1_ps(x);
#else
    F v;
    for (int i = 0; i < LANES; i++) v[i] = x;
    return v;
#endif
}
INLINE I splat(int32_t x) { return x - I{}; }

INLINE F fma(F a, F b, F c) {
#if defined(UNDERLAY_AVX512)
    return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(UNDERLAY_AVX2)
    return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(UNDERLAY_NEON)
    return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE F to_float(I v) { return __builtin_convertvector(v, F); }
INLINE F even_half(U pairs) { return (F)(pairs << 16); }             // bfloat16 is the upper half of a float32
INLINE F odd_half(U pairs) { return (F)(pairs & 0xffff0000u); }

// The same four bytes in every lane: neighbouring inputs of a row, two bfloat16 or four int8.
INLINE I splat_bytes(const void* from) {
    int32_t four;
    memcpy(&four, from, 4);
    return splat(four);
}

// acc + a[2i] b[2i] + a[2i + 1] b[2i + 1] of bfloat16, where it is PAIRED; the processor says in which order it rounds.
#if defined(UNDERLAY_AVX512) && defined(__AVX512BF16__)
constexpr bool PAIRED = true;
INLINE F pair_sum(F acc, I a, I b) { return (F)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
#else
#if defined(UNDERLAY_EMULATED)
constexpr bool PAIRED = true;
#else
constexpr bool PAIRED = false;
#endif
INLINE F pair_sum(F acc, I a, I b) {
    return fma(odd_half((U)a), odd_half((U)b), fma(even_half((U)a), even_half((U)b), acc));
}
#endif

// acc + the four products of each lane, exactly. Inputs are -127 to 127. Weights have OFFSET added, so that they are 0 to
// 255, for processors that want them so; for others it is 0. SMALL ones are 0 to 15 everywhere.
#if (defined(UNDERLAY_AVX512) && defined(__AVX512VNNI__)) || (defined(UNDERLAY_AVX2) && defined(__AVXVNNI__))
constexpr int OFFSET = 128;
#else
constexpr int OFFSET = 0;
#endif
template <bool SMALL> INLINE I quad_sum(I acc, B weights, B inputs) {
#if defined(UNDERLAY_AVX512) && defined(__AVX512VNNI__)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, (__m512i)inputs);
#elif defined(UNDERLAY_AVX512)
    __m512i size = (__m512i)weights, x = (__m512i)inputs;
    if constexpr (!SMALL) {
        x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(size), _mm512_setzero_si512(), x);
        size = _mm512_abs_epi8(size);
    }
    return acc + (I)_mm512_madd_epi16(_mm512_maddubs_epi16(size, x), _mm512_set1_epi16(1));
#elif defined(UNDERLAY_AVX2) && defined(__AVXVNNI__)
    return (I)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)weights, (__m256i)inputs);
#elif defined(UNDERLAY_AVX2)
    __m256i size = (__m256i)weights, x = (__m256i)inputs;
    if constexpr (!SMALL) x = _mm256_sign_epi8(x, size), size = _mm256_abs_epi8(size);
    return acc + (I)_mm256_madd_epi16(_mm256_maddubs_epi16(size, x), _mm256_set1_epi16(1));
#elif defined(UNDERLAY_NEON) && defined(__ARM_FEATURE_DOTPROD)
    return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)weights, (int8x16_t)inputs);
#elif defined(UNDERLAY_NEON)
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)weights), vget_low_s8((int8x16_t)inputs));
    int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)weights), vget_high_s8((int8x16_t)inputs));
    int32x4_t first = vpaddlq_s16(low), second = vpaddlq_s16(high);
    return acc + (I)vcombine_s32(vpadd_s32(vget_low_s32(first), vget_high_s32(first)),
                                 vpadd_s32(vget_low_s32(second), vget_high_s32(second)));
#else
    for (int i = 0; i < 4 * LANES; i++) acc[i / 4] += weights[i] * inputs[i];
    return acc;
#endif
}

// LANES int8 to float32.
INLINE F widen(const int8_t* from) {
#if defined(UNDERLAY_AVX512)
    return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_as<__m128i>(from)));
#elif defined(UNDERLAY_AVX2)
    return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
    return __builtin_convertvector(load_as<FEW_BYTES>(from), F);
#endif
}


INLINE F larger(F a, F b) { return a > b ? a : b; }
INLINE F within(F x, float low, float high) {
    x = x < splat(low) ? splat(low) : x;
    return x > splat(high) ? splat(high) : x;
}
INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

INLINE float sum(F v) {
    float lanes[LANES];
    store(lanes, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}
INLINE int32_t sum(I v) {
#if defined(UNDERLAY_AVX512)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
#endif
}
INLINE float largest(F v) {
#if defined(UNDERLAY_AVX512)
    return _mm512_reduce_max_ps((__m512)v);
#elif defined(UNDERLAY_AVX2)
    __m128 half = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
#else
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
}

// The integers nearest to x * by, which are not large.
INLINE I nearest(F x, float by) {
    return __builtin_convertvector(fma(x, splat(by), splat(12582912.0f)) - 12582912.0f, I);
}

// Of what fits into int8.
INLINE FEW_BYTES narrow(I v) {
#if defined(UNDERLAY_AVX2)
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
    return load_as<FEW_BYTES>(&bytes);
#else
    return __builtin_convertvector(v, FEW_BYTES);
#endif
}

// e^x within 2 units in the last place; 0 below -87.3, where float32 ends.
INLINE F exponential(F given) {
    F x = within(given, -87.3f, 88.7f);
    F turns = fma(x, splat(1.44269504f), splat(12582912.0f)) - 12582912.0f;  // rounds to an integer
    F r = fma(turns, splat(-0.693359375f), x);
    r = fma(turns, splat(2.12194440e-4f), r);
    F p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r + 1.0f);
#if defined(UNDERLAY_AVX512)
    F result = (F)_mm512_scalef_ps((__m512)p, (__m512)turns);
#else
    I whole = __builtin_convertvector(turns, I);
    // Two factors, since 2^128 is no float32 though e^88.7 is one.
    F first = (F)(((whole >> 1) + 127) << 23), second = (F)((whole - (whole >> 1) + 127) << 23);
    F result = p * first * second;
#endif
    return given < splat(-87.3f) ? F{} : result;
}

INLINE F hyperbolic_tangent(F x) {
    F small = x * fma(x * x, splat(-1.0f / 3), splat(1.0f));  // the quotient below would cancel
    F wide = 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
    return magnitude(x) < splat(0.02f) ? small : wide;
}

// Abramowitz and Stegun 7.1.26: within 1.5e-7.
INLINE F error_function(F x) {
    F size = magnitude(x);
    F t = 1.0f / fma(size, splat(0.3275911f), splat(1.0f));
    F p = splat(1.061405429f);
    p = fma(p, t, splat(-1.453152027f));
    p = fma(p, t, splat(1.421413741f));
    p = fma(p, t, splat(-0.284496736f));
    p = fma(p, t, splat(0.254829592f));
    F positive = 1.0f - p * t * exponential(-(size * size));
    return x < F{} ? -positive : positive;
}

enum Activation { GELU, GELU_TANH, SILU, RELU, RELU2 };

INLINE F activate(Activation which, F x) {
    switch (which) {
    case GELU: return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    case GELU_TANH: return 0.5f * x * (1.0f + hyperbolic_tangent(0.79788456f * fma(x * x * x, splat(0.044715f), x)));
    case SILU: return x / (1.0f + exponential(-x));
    case RELU: return x > F{} ? x : F{};
    default: return x > F{} ? x * x : F{};
    }
}

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// To the nearest, ties to even, as torch rounds.
INLINE uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void to_bfloat16(const float* x, int count, uint16_t* to) {
    typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        U bits = load_as<U>(x + i);
        U rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 64;
        U half = (I)(bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
        store(to + i, __builtin_convertvector(half, Halves));
    }
    for (; i < count; i++) to[i] = to_bfloat16(x[i]);
}
INLINE float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

}  // namespace underlay
