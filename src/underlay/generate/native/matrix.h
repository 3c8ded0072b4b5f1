// A matrix as products read it: in panels of 16 outputs, so that those lie side by side and inputs follow each other.
//
//     float32   [panel][input][16]
//     bfloat16  [panel][input / 2][16][2]      two inputs share a lane; each is widened by one instruction
//     int8      [panel][input / 2][16][2]      the same, multiplied in pairs, summed exactly in int32
//     int4      [panel][input / 8][16][2]      of uint16, whose four nibbles are inputs 2t and 2t + 1; 8 is added
//
// and where the processor multiplies tiles (tiles.h), inputs being filled up with zeros to whole tiles:
//
//     bfloat16  [panel][input / 2][16][2]      32 inputs are a tile
//     int8      [panel][input / 4][16][4]      64 inputs are a tile
#pragma once

#include <algorithm>

#include "memory.h"

namespace underlay {

enum Kind { FLOAT32, BFLOAT16, INT8, INT4, WIDE_INT4 };
constexpr int GROUP = 32;                // inputs that share a scale in int4
constexpr int MOST_WIDE = 4;             // panels that are walked side by side
constexpr int BAND = 128;                // rows that are taken through a few panels at a time

struct Matrix {
    Kind kind = FLOAT32;
    bool tiled = false;
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
    const char* tiles = nullptr;         // bfloat16 and int8 where the matrix is tiled
    int tile_rows = 0;                   // of each tile
};

// Bytes of a tile's row: 32 bfloat16, 64 int8, 16 sums.
constexpr int TILE_WIDTH = 64, TILE_ROWS = 16, TILE_BYTES = TILE_ROWS * TILE_WIDTH;

// Tiles that the inputs of a panel fill.
inline int tiles_of(Kind kind, int inputs) { return (inputs + (kind == INT8 ? 63 : 31)) / (kind == INT8 ? 64 : 32); }

inline size_t panel_bytes(Kind kind, int inputs, bool tiled) {
    if (tiled) return (size_t)tiles_of(kind, inputs) * TILE_BYTES;
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
            size_t paired = ((size_t)(k / 2) * PANEL + j) * 2 + k % 2, fourth = ((size_t)(k / 4) * PANEL + j) * 4 + k % 4;
            switch (m.kind) {
            case FLOAT32: ((float*)to)[(size_t)k * PANEL + j] = real[k]; break;
            case BFLOAT16: ((uint16_t*)to)[paired] = to_bfloat16(real[k]); break;
            case INT8: ((int8_t*)to)[m.tiled ? fourth : paired] = whole[k]; break;
            default:
                size_t place = ((size_t)(k / 8) * PANEL + j) * 2 + k % 2;
                ((uint16_t*)to)[place] |= (uint16_t)((whole[k] + 8) << (k % 8 / 2 * 4));
            }
        }
    }
}

}  // namespace underlay
