// The instructions of AMX, which multiply 16 x 64 bytes with 16 x 64 bytes, as functions of the numbers of tiles; 0 to 7.
// Tiles 0 to 5 have as many rows as were configured, 6 and 7 always 16: theirs are the matrix's.
//
// -DUNDERLAY_EMULATED does in C++ what Intel documents of them, so that all that is built on them can be tested on
// any machine. Without either there are none: `state` is ABSENT then, and nothing else may be called.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "matrix.h"

#if defined(UNDERLAY_EMULATED)
#define UNDERLAY_TILES
#elif defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__x86_64__) && defined(__linux__)
#define UNDERLAY_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace underlay {
namespace tile {

constexpr int MATRIX = 6;                // the first of the tiles that are always whole

// What the system and the processor said, told by `underlay_tiles`.
enum State { ABSENT, USED, REFUSED, WRONG };

struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t width[16] = {};             // bytes of a row
    uint8_t rows[16] = {};

    explicit Configuration(int given) {
        for (int i = 0; i < 8; i++) width[i] = TILE_WIDTH, rows[i] = (uint8_t)(i < MATRIX ? given : TILE_ROWS);
    }
};
static_assert(sizeof(Configuration) == 64, "as LDTILECFG reads it");

#if defined(UNDERLAY_EMULATED)

struct Emulated {
    int rows[8];
    alignas(64) char data[8][TILE_BYTES];
};
inline thread_local Emulated emulated;
enum Fault { NONE, NO_PERMISSION, OTHER_SUMS, OTHER_INTEGERS };
inline int fault = NONE;                 // what to do wrongly, for tests

inline bool permitted() { return fault != NO_PERMISSION; }

inline void load_configuration(const Configuration& given) {
    memset(&emulated, 0, sizeof emulated);
    for (int i = 0; i < 8; i++) emulated.rows[i] = given.rows[i];
}
inline void release() { memset(&emulated, 0, sizeof emulated); }

template <int T> void zero() { memset(emulated.data[T], 0, TILE_BYTES); }

template <int T> void load(const void* from, size_t stride) {
    zero<T>();
    for (int row = 0; row < emulated.rows[T]; row++)
        memcpy(emulated.data[T] + row * TILE_WIDTH, (const char*)from + row * stride, TILE_WIDTH);
}

template <int T> void store(void* to, size_t stride) {
    for (int row = 0; row < emulated.rows[T]; row++)
        memcpy((char*)to + row * stride, emulated.data[T] + row * TILE_WIDTH, TILE_WIDTH);
}

// Zero in the place of what is too small to be normal.
inline float flushed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits = bits & 0x7f800000 ? bits : bits & 0x80000000;
    memcpy(&x, &bits, 4);
    return x;
}

// The products of even inputs are summed, and those of odd ones, and both sums are added to what was there.
template <int SUMS, int A, int B> void multiply_bfloat16() {
    const auto *a = (const uint16_t*)emulated.data[A], *b = (const uint16_t*)emulated.data[B];
    auto* sums = (float*)emulated.data[SUMS];
    for (int row = 0; row < emulated.rows[SUMS]; row++) {
        float both[2][PANEL] = {};
        for (int k = 0; k < TILE_WIDTH / 4; k++)
            for (int half = 0; half < 2; half++) {
                float x = flushed(from_bfloat16(a[row * 32 + 2 * k + half]));
                for (int j = 0; j < PANEL; j++) {
                    float w = flushed(from_bfloat16(b[k * 32 + 2 * j + half]));
                    both[half][j] = flushed(__builtin_fmaf(x, w, both[half][j]));
                }
            }
        for (int j = 0; j < PANEL; j++) {
            float sum = flushed(both[0][j] + both[1][j]);
            sums[row * PANEL + j] = flushed(flushed(sums[row * PANEL + j]) + sum);
        }
    }
    if (fault == OTHER_SUMS) sums[0] += 1;
}

// Inputs are signed, weights have OFFSET added.
template <int SUMS, int A, int B> void multiply_int8() {
    const auto* a = (const int8_t*)emulated.data[A];
    const auto* b = (const std::conditional_t<OFFSET == 0, int8_t, uint8_t>*)emulated.data[B];
    auto* sums = (uint32_t*)emulated.data[SUMS];  // they wrap around
    for (int row = 0; row < emulated.rows[SUMS]; row++)
        for (int k = 0; k < TILE_WIDTH / 4; k++)
            for (int j = 0; j < PANEL; j++)
                for (int i = 0; i < 4; i++)
                    sums[row * PANEL + j] += (uint32_t)(a[row * 64 + 4 * k + i] * b[k * 64 + 4 * j + i]);
    if (fault == OTHER_INTEGERS) sums[0] += 1;
}

#elif defined(UNDERLAY_TILES)

// Leave for this process to use the registers, which the system gives on request only.
inline bool permitted() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// Not the compiler's own functions: those of GCC 12 do not say that they read memory, so that stores may come too late.
inline void load_configuration(const Configuration& given) { asm volatile("ldtilecfg %0" ::"m"(given) : "memory"); }
inline void release() { asm volatile("tilerelease" ::: "memory"); }
template <int T> INLINE void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(T)); }
template <int T> INLINE void load(const void* from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T> INLINE void store(void* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
template <int SUMS, int A, int B> INLINE void multiply_bfloat16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(A), "i"(B));
}
template <int SUMS, int A, int B> INLINE void multiply_int8() {
    if constexpr (OFFSET) asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(A), "i"(B));
    else asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(A), "i"(B));
}

#endif

}  // namespace tile
}  // namespace underlay
