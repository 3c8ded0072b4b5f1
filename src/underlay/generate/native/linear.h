// Matrix products. A matrix lies in panels of 16 outputs (matrix.h); lanes of a vector are outputs, and inputs are walked
// one after the other. So each output of each row is one chain of additions in the order of the inputs, however many
// rows there are: that is what row invariance rests on, and what makes one row and many rows the same code. Where the
// processor multiplies whole tiles, tiles.h does it instead.
//
// bfloat16 is widened, or multiplied in pairs by processors that can, whose inputs are then rounded to it too. Whole
// numbers are summed exactly over a group of inputs, in fours, then scaled and added. On processors with few registers
// a stretch of a bfloat16 panel is widened once for many rows.
#pragma once

#include <type_traits>

#include "tiles.h"

namespace underlay {

constexpr bool ROOMY = REGISTERS == 32;
constexpr int ACCUMULATORS = ROOMY ? 24 : 12;  // vectors of sums that registers hold beside what is summed
constexpr int MOST_ROWS = 6;
constexpr int TOGETHER = ROOMY ? MOST_WIDE : 2;  // panels that many rows go through side by side
// By kind: rows of one product, as many as registers hold, and inputs walked at a time by many rows, so that panels
// stay in L1.
constexpr int WHOLE_ROWS = PARTS == 1 ? 8 : ROOMY ? MOST_ROWS : 4;
constexpr int ROWS[] = {MOST_ROWS, ROOMY ? MOST_ROWS : 4, WHOLE_ROWS, WHOLE_ROWS};
constexpr int DEPTHS[] = {ROOMY ? 96 : 192, ROOMY ? 192 : 384, ROOMY ? 1024 : 512, ROOMY ? 1024 : 512};
constexpr int WIDENED = ROOMY || PAIRED ? 1 << 30 : 24;  // rows from which on bfloat16 is widened
constexpr size_t WIDE_BYTES = DEPTHS[FLOAT32] * PANEL * sizeof(float);  // of a stretch of a panel

// Inputs first..last - 1 of a bfloat16 panel as float32, [input][16]; one more where their number is odd.
inline void widen_bfloat16(const char* panel, int first, int last, float* to) {
    for (int k = first; k < last; k += 2, to += 2 * PANEL)
        UNROLL for (int v = 0; v < PANEL; v += LANES) {
            U pairs = load_as<U>((const float*)panel + (size_t)k / 2 * PANEL + v);
            store(to + v, even_half(pairs));
            store(to + PANEL + v, odd_half(pairs));
        }
}

// acc[r][p][v] += x[r] * weight(p, v). What is loaded once and kept in a register is the shorter of the two lists, so
// that the sums have the rest of the registers to themselves.
template <int R, int P, class Weight>
INLINE void accumulate(F (&acc)[R][P][PARTS], const float* x, size_t stride, const Weight& weight) {
    if constexpr (P == 1) {
        F w[PARTS];
        UNROLL for (int v = 0; v < PARTS; v++) w[v] = weight(0, v);
        UNROLL for (int r = 0; r < R; r++) {
            F here = splat(x[r * stride]);
            UNROLL for (int v = 0; v < PARTS; v++) acc[r][0][v] = fma(here, w[v], acc[r][0][v]);
        }
    } else {
        F here[R];
        UNROLL for (int r = 0; r < R; r++) here[r] = splat(x[r * stride]);
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) {
                F w = weight(p, v);
                UNROLL for (int r = 0; r < R; r++) acc[r][p][v] = fma(here[r], w, acc[r][p][v]);
            }
    }
}

// Four bytes of R rows with P panels: acc[r][p][v] = sum(acc[r][p][v], weight(p, v), bytes of r).
template <int R, int P, class Sums, class Weight, class Sum>
INLINE void multiply_bytes(Sums (&acc)[R][P][PARTS], const char* bytes, size_t stride, const Weight& weight,
                           const Sum& sum) {
    I w[P][PARTS];
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < PARTS; v++) w[p][v] = weight(p, v);
    UNROLL for (int r = 0; r < R; r++) {
        I here = splat_bytes(bytes + r * stride);
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = sum(acc[r][p][v], w[p][v], here);
    }
}

// What a product goes through: P panels, `apart` bytes from each other, and inputs first..last - 1.
struct Stretch {
    const char* base;
    size_t apart;
    int panel, first, last;
    int soon;                            // what lies so many panels further on than those
    unsigned fetched;                    // with these bits is fetched meanwhile
    ptrdiff_t ahead;                     // the same in bytes
};

template <int P> INLINE void fetch(const Stretch& s, const char* line) {
    UNROLL for (int p = 0; p < P; p++)
        if (s.fetched >> p & 1) __builtin_prefetch(line + p * s.apart + s.ahead, 0, 2);
}

// float32 and bfloat16. tile: [R][stride].
template <Kind K, int R, int P, bool FETCHES>
APART void multiply_floats(const Stretch& s, const Rows& rows, int row, float* tile, size_t stride) {
    F acc[R][P][PARTS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++)
                acc[r][p][v] = s.first == 0 ? F{} : load(tile + r * stride + p * PANEL + v * LANES);
    const float* x = rows.x + row * rows.stride;
    const uint16_t* halves = rows.halves + row * rows.stride;
    const size_t ld = rows.stride, apart = s.apart;
    const char* base = s.base;
    constexpr int STEP = K == BFLOAT16 ? 2 : 1;
    for (int k = s.first; k < s.last; k += STEP) {
        if constexpr (FETCHES) fetch<P>(s, base + (size_t)k * PANEL * 2);
        if constexpr (K == BFLOAT16 && PAIRED)
            multiply_bytes<R, P>(
                acc, (const char*)(halves + k), 2 * ld,
                [&](int p, int v) { return load_as<I>(base + p * apart + (size_t)k * PANEL * 2 + v * LANES * 4); },
                [](F acc, I w, I here) { return pair_sum(acc, w, here); });
        else
            UNROLL for (int half = 0; half < STEP; half++) {
                accumulate<R, P>(acc, x + k + half, ld, [&](int p, int v) {
                    const float* at = (const float*)(base + p * apart) + (size_t)(k / STEP) * PANEL + v * LANES;
                    if constexpr (K == FLOAT32) return load(at);
                    else return half ? odd_half(load_as<U>(at)) : even_half(load_as<U>(at));
                });
                FENCE;
            }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) store(tile + r * stride + p * PANEL + v * LANES, acc[r][p][v]);
}

// int8 and int4, in whole groups.
template <Kind K, int R, int P, bool FETCHES>
APART void multiply_whole(const Matrix& m, const Stretch& s, const Rows& rows, int row, float* tile, size_t stride) {
    constexpr int STEP = K == INT8 ? 4 : 8, LINE = PANEL * 4;  // inputs of a lane, and bytes of a panel's lanes
    const size_t ld = rows.stride, apart = s.apart, groups = m.groups();
    const int8_t* q = rows.whole + row * ld;
    const float* scales = rows.scales + row * groups;
    const int32_t* sums = rows.sums + row * groups;
    F total[R][P][PARTS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++)
                total[r][p][v] = s.first == 0 ? F{} : load(tile + r * stride + p * PANEL + v * LANES);
    for (int first = s.first; first < s.last; first += GROUP[K]) {
        const int group = first / GROUP[K];
        I acc[R][P][PARTS];
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++)
                    acc[r][p][v] = splat(-(K == INT8 ? OFFSET : 8) * sums[r * groups + group]);
        const char* lines = s.base + (size_t)first / STEP * LINE;
        _Pragma("GCC unroll 4") for (int k = first; k < first + GROUP[K]; k += STEP, lines += LINE) {
            if constexpr (FETCHES) fetch<P>(s, lines);
            UNROLL for (int half = 0; half < STEP / 4; half++)
                multiply_bytes<R, P>(
                    acc, (const char*)q + k + 4 * half, ld,
                    [&](int p, int v) {
                        I w = load_as<I>(lines + p * apart + v * LANES * 4);
                        if constexpr (K == INT8) return w;
                        else return (half ? w >> 4 : w) & 0x0f0f0f0f;
                    },
                    [](I acc, I w, I here) { return quad_sum<K == INT4>(acc, (B)w, (B)here); });
        }
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) {
                F of_outputs{};
                if constexpr (K == INT4) {
                    const float* at = m.scales + ((s.panel + p) * groups + group) * PANEL + v * LANES;
                    of_outputs = load(at);
                    if (FETCHES && s.fetched >> p & 1) __builtin_prefetch(at + s.soon * groups * PANEL, 0, 2);
                }
                UNROLL for (int r = 0; r < R; r++) {
                    F found = to_float(acc[r][p][v]), scale = splat(scales[r * groups + group]);
                    if constexpr (K == INT4) found = found * of_outputs;
                    total[r][p][v] = fma(found, scale, total[r][p][v]);
                }
            }
    }
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < PARTS; v++) {
            F of_outputs = splat(1.0f);
            if (K == INT8 && s.last == m.inputs) of_outputs = load(m.scales + (s.panel + p) * PANEL + v * LANES);
            UNROLL for (int r = 0; r < R; r++)
                store(tile + r * stride + p * PANEL + v * LANES, total[r][p][v] * of_outputs);
        }
}

template <Kind K, int R>
void multiply_rows(const Matrix& m, Stretch s, int panels, const Rows& rows, int row, float* tile, size_t stride) {
    // Of whole numbers, sums of floats are wanted once a group only; they may lie in memory.
    constexpr int FLOATS = K == BFLOAT16 && !ROOMY ? ACCUMULATORS - 4 : ACCUMULATORS;
    constexpr int SUMS = K == FLOAT32 || K == BFLOAT16 ? FLOATS : ROOMY ? 16 : 6;
    constexpr int MOST = std::max(1, std::min(MOST_WIDE, SUMS / (R * PARTS))), P = MOST == 3 ? 2 : MOST;
    auto some = [&](auto many) {
        constexpr int N = decltype(many)::value;
        auto product = [&](auto fetches) {
            constexpr bool FETCHES = decltype(fetches)::value;
            if constexpr (K == FLOAT32 || K == BFLOAT16) multiply_floats<K, R, N, FETCHES>(s, rows, row, tile, stride);
            else multiply_whole<K, R, N, FETCHES>(m, s, rows, row, tile, stride);
        };
        if (K != FLOAT32 && s.fetched) product(std::bool_constant<K != FLOAT32>{});
        else product(std::false_type{});
        s.base += N * s.apart, s.panel += N, s.fetched >>= N, tile += N * PANEL, panels -= N;
    };
    while (panels >= P) some(std::integral_constant<int, P>{});
    if constexpr (P == 4)
        if (panels >= 2) some(std::integral_constant<int, 2>{});
    if constexpr (P > 1)
        if (panels) some(std::integral_constant<int, 1>{});
}

template <Kind K>
void multiply_kind(const Matrix& m, const Stretch& s, int panels, const Rows& rows, int row, int count, float* tile,
                   size_t stride) {
#define UNDERLAY_ROWS(R) \
    case R: return multiply_rows<K, R>(m, s, panels, rows, row, tile, stride);
    switch (count) {
        UNDERLAY_ROWS(1)
        UNDERLAY_ROWS(2)
        UNDERLAY_ROWS(3)
        UNDERLAY_ROWS(4)
        UNDERLAY_ROWS(5)
        UNDERLAY_ROWS(6)
        UNDERLAY_ROWS(7)
        UNDERLAY_ROWS(8)
    }
#undef UNDERLAY_ROWS
}

// A band of rows (BAND at most) with a few panels (MOST_WIDE at most): tile [count][stride] = rows matrix^T. `soon`:
// how many panels ahead those lie that this thread probably takes next; they are fetched while rows go through these.
// Behind a matrix lies the next one.
inline void multiply(const Matrix& m, int panel, int panels, const Rows& rows, int row, int count, float* tile,
                     size_t stride, int soon) {
    if (m.tiled) return multiply_tiled(m, panel, panels, rows, row, count, tile, stride, soon);
    const bool widened = m.kind == BFLOAT16 && count >= WIDENED;
    const Kind kind = widened ? FLOAT32 : m.kind;
    int bunches = (count + ROWS[kind] - 1) / ROWS[kind];
    int depth = bunches == 1 ? m.inputs : DEPTHS[kind], together = bunches == 1 ? panels : TOGETHER;
    alignas(64) char wide[TOGETHER * WIDE_BYTES];
    for (int first = 0; first < m.inputs; first += depth)
        for (int done = 0; done < panels; done += together) {
            int last = std::min(first + depth, m.inputs), few = std::min(together, panels - done);
            Stretch s = {m.panel(panel + done), m.panel_bytes, panel + done, first, last, soon, 0, 0};
            s.ahead = soon * m.panel_bytes;
            if (widened) {
                for (int p = 0; p < few; p++)
                    widen_bfloat16(s.base + p * s.apart, first, last, (float*)(wide + p * WIDE_BYTES));
                s.base = wide - first * PANEL * sizeof(float), s.apart = WIDE_BYTES;
            }
            for (int bunch = 0; bunch < bunches; bunch++) {
                int from = count * bunch / bunches, many = count * (bunch + 1) / bunches - from;
                float* to = tile + from * stride + done * PANEL;
                s.fetched = 0;           // all bunches fetch their share; a few rows wait for memory anyway
                for (int p = bunch; count >= 4 && p < few; p += bunches) s.fetched |= 1u << p;
                switch (kind) {
                case FLOAT32: multiply_kind<FLOAT32>(m, s, few, rows, row + from, many, to, stride); break;
                case BFLOAT16: multiply_kind<BFLOAT16>(m, s, few, rows, row + from, many, to, stride); break;
                case INT8: multiply_kind<INT8>(m, s, few, rows, row + from, many, to, stride); break;
                case INT4: multiply_kind<INT4>(m, s, few, rows, row + from, many, to, stride); break;
                }
            }
        }
}

}  // namespace underlay
