// Matrix products. A matrix lies in panels of 16 outputs; lanes of a vector are outputs, and inputs are walked one after
// the other. So each output of each row is one chain of additions in the order of the inputs, however many rows there
// are: that is what row invariance rests on, and what makes one row and many rows the same code.
//
//     float32   [panel][input][16]
//     bfloat16  [panel][input / 2][16][2]      two inputs share a lane; each is widened by one instruction
//     int8      [panel][input / 2][16][2]      the same, multiplied in pairs, summed exactly in int32
//     int4      [panel][input / 8][16][2]      of uint16, whose four nibbles are inputs 2t and 2t + 1; 8 is added
#pragma once

#include <algorithm>

#include "memory.h"

namespace underlay {

enum Kind { FLOAT32, BFLOAT16, INT8, INT4 };
constexpr int GROUP = 32;                // inputs that share a scale in int4
constexpr int MOST_WIDE = 4;             // panels that are walked side by side
constexpr int ACCUMULATORS = REGISTERS == 32 ? 24 : 12;
constexpr int MOST_ROWS = PARTS == 4 ? 6 : REGISTERS == 32 ? 8 : 6;
constexpr int DEPTH = 512;               // inputs walked at a time where there are many rows: they stay in the cache
constexpr int BAND = 96;                 // rows that are taken through a few panels at a time

struct Matrix {
    Kind kind = FLOAT32;
    int outputs = 0, inputs = 0, panels = 0;
    size_t panel_bytes = 0;
    Buffer<char> data;
    Buffer<float> scales;                // int8: [panel][16], int4: [panel][inputs / 32][16]
    Buffer<float> bias;                  // [panel][16], or none

    const char* panel(int index) const { return data.get() + index * panel_bytes; }
};

// Rows that a matrix is multiplied with.
struct Rows {
    const float* x = nullptr;            // float32 and bfloat16
    size_t x_stride = 0;
    const int16_t* q = nullptr;          // int8 and int4: x = q * scale
    size_t q_stride = 0;
    const float* scale = nullptr;
    const int32_t* sums = nullptr;       // int4: of each group of q
    size_t sums_stride = 0;
};

inline size_t panel_bytes(Kind kind, int inputs) {
    switch (kind) {
    case FLOAT32: return (size_t)inputs * PANEL * 4;
    case BFLOAT16: return round_up(inputs, 2) * PANEL * 2;
    case INT8: return round_up(inputs, 2) * PANEL;
    default: return (size_t)inputs * PANEL / 2;
    }
}

// Largest magnitude of quantised inputs with which no sum can overflow.
inline int most_steps(Kind kind, int inputs) {
    return kind == INT4 ? 32767 : (int)std::min<int64_t>(32767, INT32_MAX / (127 * (int64_t)round_up(inputs, 2)));
}

// One panel; weight: (outputs, inputs) float32, or int8 for the integers.
inline void pack_panel(Matrix& m, int panel, const void* weight) {
    char* to = m.data.get() + panel * m.panel_bytes;
    int columns = std::min(PANEL, m.outputs - panel * PANEL);
    for (int j = 0; j < columns; j++) {
        size_t start = (size_t)(panel * PANEL + j) * m.inputs;
        const float* real = (const float*)weight + start;
        const int8_t* whole = (const int8_t*)weight + start;
        for (int k = 0; k < m.inputs; k++) {
            size_t paired = ((size_t)(k / 2) * PANEL + j) * 2 + k % 2;
            switch (m.kind) {
            case FLOAT32: ((float*)to)[(size_t)k * PANEL + j] = real[k]; break;
            case BFLOAT16: ((uint16_t*)to)[paired] = to_bfloat16(real[k]); break;
            case INT8: ((int8_t*)to)[paired] = whole[k]; break;
            case INT4:
                size_t place = ((size_t)(k / 8) * PANEL + j) * 2 + k % 2;
                ((uint16_t*)to)[place] |= (uint16_t)((whole[k] + 8) << (k % 8 / 2 * 4));
            }
        }
    }
}

// Inputs first..last - 1 of R rows with P panels; tile: [R][stride] float32, or int32 until the last inputs have come.
template <Kind K, int R, int P>
INLINE void multiply_add(const Matrix& m, int panel, const Rows& rows, int row, int first, int last, float* tile,
                         size_t stride) {
    const char* base = m.panel(panel);
    const size_t apart = m.panel_bytes;
    bool begins = first == 0, ends = last == m.inputs;
    if constexpr (K == FLOAT32 || K == BFLOAT16) {
        F acc[R][P][PARTS];
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int p = 0; p < P; p++)
                UNROLL for (int v = 0; v < PARTS; v++)
                    acc[r][p][v] = begins ? F{} : load(tile + r * stride + p * PANEL + v * LANES);
        const float* x = rows.x + row * rows.x_stride;
        const size_t ld = rows.x_stride;
        if constexpr (K == FLOAT32) {
            for (int k = first; k < last; k++)
                UNROLL for (int p = 0; p < P; p++) {
                    F w[PARTS];
                    UNROLL for (int v = 0; v < PARTS; v++)
                        w[v] = load((const float*)(base + p * apart) + (size_t)k * PANEL + v * LANES);
                    UNROLL for (int r = 0; r < R; r++) {
                        F here = splat(x[r * ld + k]);
                        UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = fma(here, w[v], acc[r][p][v]);
                    }
                }
        } else {
            for (int k = first; k < last; k += 2)
                UNROLL for (int p = 0; p < P; p++) {
                    const char* pairs = base + p * apart + (size_t)k * PANEL * 2;
                    F w[PARTS];
                    UNROLL for (int v = 0; v < PARTS; v++) w[v] = even_half(load_as<U>(pairs + v * LANES * 4));
                    UNROLL for (int r = 0; r < R; r++) {
                        F here = splat(x[r * ld + k]);
                        UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = fma(here, w[v], acc[r][p][v]);
                    }
                    UNROLL for (int v = 0; v < PARTS; v++) w[v] = odd_half(load_as<U>(pairs + v * LANES * 4));
                    UNROLL for (int r = 0; r < R; r++) {
                        F here = splat(x[r * ld + k + 1]);
                        UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = fma(here, w[v], acc[r][p][v]);
                    }
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
        for (int k = first; k < last; k += 2)
            UNROLL for (int p = 0; p < P; p++) {
                const int8_t* pairs = (const int8_t*)base + p * apart + (size_t)k * PANEL;
                S w[PARTS];
                UNROLL for (int v = 0; v < PARTS; v++) w[v] = widen_pairs(pairs + v * LANES * 2);
                UNROLL for (int r = 0; r < R; r++) {
                    S here = splat_pair(q + r * ld + k);
                    UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = pair_sum(acc[r][p][v], w[v], here);
                }
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
                    UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = splat(-8 * sums[r * rows.sums_stride + group]);
            for (int k = group * GROUP; k < (group + 1) * GROUP; k += 8)
                UNROLL for (int p = 0; p < P; p++)
                    UNROLL for (int v = 0; v < PARTS; v++) {
                        US four = load_as<US>(base + p * apart + (size_t)k * PANEL / 2 + v * LANES * 4);
                        UNROLL for (int t = 0; t < 4; t++) {
                            S w = (S)(t == 3 ? four >> 12 : (four >> (4 * t)) & nibble);
                            UNROLL for (int r = 0; r < R; r++)
                                acc[r][p][v] = pair_sum(acc[r][p][v], w, splat_pair(q + r * ld + k + 2 * t));
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
void multiply_rows(const Matrix& m, int panel, int panels, const Rows& rows, int row, int first, int last, float* tile,
                   size_t stride) {
    constexpr int P = std::max(1, std::min(MOST_WIDE, ACCUMULATORS / (R * PARTS)));
    int done = 0;
    for (; done + P <= panels; done += P)
        multiply_add<K, R, P>(m, panel + done, rows, row, first, last, tile + done * PANEL, stride);
    if constexpr (P > 1)
        for (; done < panels; done++)
            multiply_add<K, R, 1>(m, panel + done, rows, row, first, last, tile + done * PANEL, stride);
}

template <Kind K>
void multiply_kind(const Matrix& m, int panel, int panels, const Rows& rows, int row, int count, int first, int last,
                   float* tile, size_t stride) {
#define UNDERLAY_ROWS(R) \
    case R: return multiply_rows<K, R>(m, panel, panels, rows, row, first, last, tile, stride);
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

// A band of rows (BAND at most) with a few panels (MOST_WIDE at most): tile [count][stride] = rows matrix^T.
inline void multiply(const Matrix& m, int panel, int panels, const Rows& rows, int row, int count, float* tile,
                     size_t stride) {
    int bunches = (count + MOST_ROWS - 1) / MOST_ROWS;
    int depth = bunches == 1 ? m.inputs : DEPTH;
    for (int first = 0; first < m.inputs; first += depth) {
        int last = std::min(first + depth, m.inputs);
        for (int bunch = 0; bunch < bunches; bunch++) {
            int from = count * bunch / bunches, many = count * (bunch + 1) / bunches - from;
            float* to = tile + from * stride;
            switch (m.kind) {
            case FLOAT32: multiply_kind<FLOAT32>(m, panel, panels, rows, row + from, many, first, last, to, stride); break;
            case BFLOAT16: multiply_kind<BFLOAT16>(m, panel, panels, rows, row + from, many, first, last, to, stride); break;
            case INT8: multiply_kind<INT8>(m, panel, panels, rows, row + from, many, first, last, to, stride); break;
            case INT4: multiply_kind<INT4>(m, panel, panels, rows, row + from, many, first, last, to, stride); break;
            }
        }
    }
}

}  // namespace underlay
