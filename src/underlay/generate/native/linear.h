// Matrix products. A matrix lies in panels of 16 outputs (matrix.h); lanes of a vector are outputs, and inputs are walked
// one after the other. So each output of each row is one chain of additions in the order of the inputs, however many
// rows there are: that is what row invariance rests on, and what makes one row and many rows the same code. Where the
// processor multiplies whole tiles, tiles.h does it instead.
//
// Where there are many rows, a stretch of a panel is widened once for all of them: bfloat16 to float32, int4 to int16
// in the pairs of int8. These are the same numbers, so it changes no sum. (int8 gains nothing by it.)
#pragma once

#include <type_traits>

#include "tiles.h"

namespace underlay {

constexpr int ACCUMULATORS = REGISTERS == 32 ? 24 : 12;  // vectors of sums that registers hold beside what is summed
constexpr int MOST_ROWS = REGISTERS == 32 ? 8 : 6;
// By kind: rows of one product, as many as registers hold; rows from which on the kind is widened; inputs walked at a
// time by many rows, so that two panels stay in L1.
constexpr int ROWS[] = {MOST_ROWS, MOST_ROWS - 2, MOST_ROWS, 4, MOST_ROWS};
constexpr int WIDENED[] = {1 << 30, 24, 1 << 30, MOST_ROWS + 2};  // more than one product takes
constexpr int DEPTHS[] = {192, 384, 512, 512, 256};
constexpr size_t WIDE_BYTES = 192 * PANEL * sizeof(float);  // of a stretch of a panel, at most

// Inputs first..last - 1 of a bfloat16 panel as float32, [input][16]; one more where their number is odd.
inline void widen_bfloat16(const char* panel, int first, int last, float* to) {
    for (int k = first; k < last; k += 2, to += 2 * PANEL)
        UNROLL for (int v = 0; v < PANEL; v += LANES) {
            U pairs = load_as<U>((const float*)panel + (size_t)k / 2 * PANEL + v);
            store(to + v, even_half(pairs));
            store(to + PANEL + v, odd_half(pairs));
        }
}

// Inputs of an int4 panel, in eights, as int16, [input / 2][16][2].
inline void widen_int4(const char* panel, int first, int last, int16_t* to) {
    const US nibble = (uint16_t)15 - US{};
    for (int k = first; k < last; k += 8, to += 8 * PANEL)
        UNROLL for (int v = 0; v < PARTS; v++) {
            US four = load_as<US>(panel + (size_t)k * PANEL / 2 + v * LANES * 4);
            UNROLL for (int t = 0; t < 4; t++)
                store(to + (t * PARTS + v) * LANES * 2, (S)(four >> (4 * t) & nibble) - (int16_t)8);
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

// Two inputs of R rows with P panels; acc[r][p][v] += the sum of both products.
template <int R, int P, class Weight>
INLINE void multiply_pairs(I (&acc)[R][P][PARTS], const int16_t* q, size_t stride, const Weight& weight) {
    UNROLL for (int p = 0; p < P; p++) {
        S w[PARTS];
        UNROLL for (int v = 0; v < PARTS; v++) w[v] = weight(p, v);
        UNROLL for (int r = 0; r < R; r++) {
            S here = splat_pair(q + r * stride);
            UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = pair_sum(acc[r][p][v], w[v], here);
        }
    }
}

// Inputs first..last - 1 of R rows with P panels; tile: [R][stride] float32, or int32 until the last inputs have come.
// FETCHES: what lies `ahead` bytes further on is fetched, a line at a time. Apart, since it takes 9 % from bfloat16.
template <Kind K, int R, int P, bool FETCHES>
APART void multiply_add(const Matrix& m, const char* base, size_t apart, ptrdiff_t ahead, int panel, const Rows& rows,
                        int row, int first, int last, float* tile, size_t stride) {
    bool begins = first == 0, ends = last == m.inputs;
    if constexpr (K == FLOAT32 || K == BFLOAT16) {
        F acc[R][P][PARTS];
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++)
                    acc[r][p][v] = begins ? F{} : load(tile + r * stride + p * PANEL + v * LANES);
        const float* x = rows.x + row * rows.x_stride;
        const size_t ld = rows.x_stride;
        constexpr int STEP = K == BFLOAT16 ? 2 : 1;
        for (int k = first; k < last; k += STEP) {
            if constexpr (FETCHES)
                UNROLL for (int p = 0; p < P; p++)
                    __builtin_prefetch(base + p * apart + (size_t)k * PANEL * 2 + ahead, 0, 2);
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
                UNROLL for (int v = 0; v < PARTS; v++)
                    store(tile + r * stride + p * PANEL + v * LANES, acc[r][p][v]);
    } else if constexpr (K == INT8) {
        I acc[R][P][PARTS];
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++)
                    acc[r][p][v] = begins ? I{} : load_as<I>(tile + r * stride + p * PANEL + v * LANES);
        const int16_t* q = rows.q + row * rows.q_stride;
        const size_t ld = rows.q_stride;
        for (int k = first; k < last; k += 2) {
            if constexpr (FETCHES)
                UNROLL for (int p = 0; p < P; p++)
                    __builtin_prefetch(base + p * apart + (size_t)k * PANEL + ahead, 0, 2);
            multiply_pairs<R, P>(acc, q + k, ld, [&](int p, int v) {
                return widen_pairs((const int8_t*)base + p * apart + (size_t)k * PANEL + v * LANES * 2);
            });
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++) {
                    float* to = tile + r * stride + p * PANEL + v * LANES;
                    F scale = load(m.scales.get() + (panel + p) * PANEL + v * LANES);
                    if (ends) store(to, to_float(acc[r][p][v]) * scale * splat(rows.scale[row + r]));
                    else store(to, acc[r][p][v]);
                }
    } else {
        const int16_t* q = rows.q + row * rows.q_stride;
        const int32_t* sums = rows.sums + row * rows.sums_stride;
        const size_t ld = rows.q_stride, groups = m.inputs / GROUP;
        if (begins)
            for (int r = 0; r < R; r++)
                for (int j = 0; j < P * PANEL; j++) tile[r * stride + j] = 0;
        const US nibble = (uint16_t)15 - US{};
        for (int group = first / GROUP; group < last / GROUP; group++) {
            I acc[R][P][PARTS];
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int p = 0; p < P; p++)
                    UNROLL for (int v = 0; v < PARTS; v++)
                        acc[r][p][v] = K == WIDE_INT4 ? I{} : splat(-8 * sums[r * rows.sums_stride + group]);
            for (int k = group * GROUP; K == WIDE_INT4 && k < (group + 1) * GROUP; k += 2)
                multiply_pairs<R, P>(acc, q + k, ld, [&](int p, int v) {
                    return load_as<S>((const int16_t*)(base + p * apart) + (size_t)k * PANEL + v * LANES * 2);
                });
            for (int k = group * GROUP; K == INT4 && k < (group + 1) * GROUP; k += 8)
                UNROLL for (int p = 0; p < P; p++) {
                    US four[PARTS];
                    UNROLL for (int v = 0; v < PARTS; v++)
                        four[v] = load_as<US>(base + p * apart + (size_t)k * PANEL / 2 + v * LANES * 4);
                    UNROLL for (int t = 0; t < 4; t++) {
                        S w[PARTS];
                        UNROLL for (int v = 0; v < PARTS; v++) {
                            w[v] = (S)(t == 3 ? four[v] : four[v] & nibble);
                            four[v] = four[v] >> 4;
                        }
                        UNROLL for (int r = 0; r < R; r++) {
                            S here = splat_pair(q + r * ld + k + 2 * t);
                            UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = pair_sum(acc[r][p][v], w[v], here);
                        }
                    }
                }
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++) {
                    F scale = load(m.scales.get() + ((panel + p) * groups + group) * PANEL + v * LANES);
                    UNROLL for (int r = 0; r < R; r++) {
                        float* to = tile + r * stride + p * PANEL + v * LANES;
                        store(to, fma(to_float(acc[r][p][v]), scale, load(to)));
                    }
                }
        }
        if (ends)
            for (int r = 0; r < R; r++) {
                F scale = splat(rows.scale[row + r]);
                for (int j = 0; j < P * PANEL; j += LANES) {
                    float* to = tile + r * stride + j;
                    store(to, load(to) * scale);
                }
            }
    }
}

template <Kind K, int R>
void multiply_rows(const Matrix& m, const char* base, size_t apart, ptrdiff_t ahead, int panel, int panels,
                   const Rows& rows, int row, int first, int last, float* tile, size_t stride) {
    constexpr int SUMS = K == BFLOAT16 || K == INT4 ? ACCUMULATORS - 4 : ACCUMULATORS;
    constexpr int P = std::max(1, std::min(MOST_WIDE, SUMS / (R * PARTS)));
    auto some = [&](auto many, int done) {
        constexpr int N = decltype(many)::value;
        const char* from = base + done * apart;
        float* to = tile + done * PANEL;
        if constexpr (K == BFLOAT16 || K == INT8)
            if (ahead)
                return multiply_add<K, R, N, true>(m, from, apart, ahead, panel + done, rows, row, first, last, to,
                                                   stride);
        multiply_add<K, R, N, false>(m, from, apart, 0, panel + done, rows, row, first, last, to, stride);
    };
    int done = 0;
    for (; done + P <= panels; done += P) some(std::integral_constant<int, P>{}, done);
    if constexpr (P > 1)
        for (; done < panels; done++) some(std::integral_constant<int, 1>{}, done);
}

template <Kind K>
void multiply_kind(const Matrix& m, const char* base, size_t apart, ptrdiff_t ahead, int panel, int panels,
                   const Rows& rows, int row, int count, int first, int last, float* tile, size_t stride) {
#define UNDERLAY_ROWS(R) \
    case R: return multiply_rows<K, R>(m, base, apart, ahead, panel, panels, rows, row, first, last, tile, stride);
    switch (count) {
        UNDERLAY_ROWS(1)
        UNDERLAY_ROWS(2)
        UNDERLAY_ROWS(3)
        UNDERLAY_ROWS(4)
        UNDERLAY_ROWS(5)
        UNDERLAY_ROWS(6)
#if defined(UNDERLAY_AVX512)
        UNDERLAY_ROWS(7)
        UNDERLAY_ROWS(8)
#endif
    }
#undef UNDERLAY_ROWS
}

// A band of rows (BAND at most) with a few panels (MOST_WIDE at most): tile [count][stride] = rows matrix^T. `soon`:
// how many panels ahead those lie that this thread probably takes next; they are fetched while rows go through these.
inline void multiply(const Matrix& m, int panel, int panels, const Rows& rows, int row, int count, float* tile,
                     size_t stride, int soon) {
    if (m.tiled) return multiply_tiled(m, panel, panels, rows, row, count, tile, stride, soon);
    const bool widened = count >= WIDENED[m.kind];
    const Kind kind = !widened ? m.kind : m.kind == INT4 ? WIDE_INT4 : FLOAT32;
    int bunches = (count + ROWS[kind] - 1) / ROWS[kind];
    int depth = bunches == 1 ? m.inputs : DEPTHS[kind], together = bunches == 1 ? panels : 2;
    alignas(64) char wide[2 * WIDE_BYTES];
    const size_t input_bytes = PANEL * (kind == FLOAT32 ? sizeof(float) : sizeof(int16_t));
    for (int first = 0; first < m.inputs; first += depth)
        for (int done = 0; done < panels; done += together) {
            int last = std::min(first + depth, m.inputs), few = std::min(together, panels - done);
            const char* base = m.panel(panel + done);
            size_t apart = m.panel_bytes;
            if (widened) {
                apart = WIDE_BYTES;
                for (int p = 0; p < few; p++) {
                    const char* from = m.panel(panel + done + p);
                    char* to = wide + p * WIDE_BYTES;
                    if (m.kind == INT4) widen_int4(from, first, last, (int16_t*)to);
                    else widen_bfloat16(from, first, last, (float*)to);
                }
                base = wide - first * input_bytes;
            }
            for (int bunch = 0; bunch < bunches; bunch++) {
                int from = count * bunch / bunches, many = count * (bunch + 1) / bunches - from;
                float* to = tile + from * stride + done * PANEL;
                bool fetches = bunch == 1 && panel + done + soon + few <= m.panels;
                ptrdiff_t ahead = fetches ? soon * m.panel_bytes : 0;
#define UNDERLAY_KIND(K) \
    case K:                                                                                                    \
        multiply_kind<K>(m, base, apart, ahead, panel + done, few, rows, row + from, many, first, last, to, stride); \
        break;
                switch (kind) {
                    UNDERLAY_KIND(FLOAT32)
                    UNDERLAY_KIND(BFLOAT16)
                    UNDERLAY_KIND(INT8)
                    UNDERLAY_KIND(INT4)
                    UNDERLAY_KIND(WIDE_INT4)
                }
#undef UNDERLAY_KIND
            }
        }
}

}  // namespace underlay
