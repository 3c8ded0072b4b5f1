// A matrix as products read it: in panels of 16 outputs, so that those lie side by side and inputs follow each other.
//
//     float32   [panel][input][16]
//     bfloat16  [panel][input / 2][16][2]      two inputs share a lane
//     int8      [panel][input / 4][16][4]      four do, OFFSET is added; filled up with zeros to groups of 64
//     int4      [panel][input / 8][16]         of uint32, 8 added: four inputs in lower halves of bytes, four in upper
//
// Where the processor multiplies tiles (tiles.h), inputs of bfloat16 are filled up with zeros to 32, which are a tile.
#pragma once

#include <algorithm>

#include "memory.h"

namespace underlay {

enum Kind { FLOAT32, BFLOAT16, INT8, INT4 };
constexpr int GROUP[] = {1, 1, 64, 32};  // neighbours among a row's inputs that share a scale; in int4, weights do too
constexpr int MOST_WIDE = 4;             // panels that are walked side by side
constexpr int BAND = 128;                // rows that are taken through a few panels at a time

struct Matrix {
    Kind kind = FLOAT32;
    bool tiled = false;
    int outputs = 0, inputs = 0, panels = 0;
    size_t panel_bytes = 0;
    char* data = nullptr;
    float* scales = nullptr;             // int8: [panel][16], int4: [panel][group][16]
    Buffer<float> bias;                  // [panel][16], or none

    const char* panel(int index) const { return data + index * panel_bytes; }
    int groups() const { return (inputs + GROUP[kind] - 1) / GROUP[kind]; }
};

// Rows that a matrix is multiplied with.
struct Rows {
    const float* x = nullptr;            // float32, and bfloat16 unless it is PAIRED
    const uint16_t* halves = nullptr;    // then rounded to bfloat16
    const int8_t* whole = nullptr;       // int8 and int4: x = whole * scale, -127 to 127
    size_t stride = 0;                   // of any of these
    const float* scales = nullptr;       // [row][group]
    const int32_t* sums = nullptr;       // of each group of whole
    const char* tiles = nullptr;         // bfloat16 and int8 where the matrix is tiled
    int tile_rows = 0;                   // of each tile
};

// Bytes of a tile's row: 32 bfloat16, 64 int8, 16 sums.
constexpr int TILE_WIDTH = 64, TILE_ROWS = 16, TILE_BYTES = TILE_ROWS * TILE_WIDTH;

// Tiles that the inputs of a panel fill.
inline int tiles_of(Kind kind, int inputs) { return (inputs + (kind == INT8 ? 63 : 31)) / (kind == INT8 ? 64 : 32); }

inline size_t panel_bytes(Kind kind, int inputs, bool tiled) {
    switch (kind) {
    case FLOAT32: return (size_t)inputs * PANEL * 4;
    case BFLOAT16: return round_up(inputs, tiled ? 32 : 2) * PANEL * 2;
    case INT8: return round_up(inputs, GROUP[INT8]) * PANEL;
    default: return (size_t)inputs * PANEL / 2;
    }
}

// One panel; weight: (outputs, inputs) float32, or int8 for the integers.
inline void pack_panel(Matrix& m, int panel, const void* weight) {
    char* to = m.data + panel * m.panel_bytes;
    int columns = std::min(PANEL, m.outputs - panel * PANEL);
    for (int j = 0; j < columns; j++) {
        size_t start = (size_t)(panel * PANEL + j) * m.inputs;
        const float* real = (const float*)weight + start;
        const int8_t* whole = (const int8_t*)weight + start;
        for (int k = 0; k < m.inputs; k++) {
            size_t paired = ((size_t)(k / 2) * PANEL + j) * 2 + k % 2;
            size_t fourth = ((size_t)(k / 4) * PANEL + j) * 4 + k % 4;
            size_t nibble = ((size_t)(k / 8) * PANEL + j) * 4 + k % 4;
            switch (m.kind) {
            case FLOAT32: ((float*)to)[(size_t)k * PANEL + j] = real[k]; break;
            case BFLOAT16: ((uint16_t*)to)[paired] = to_bfloat16(real[k]); break;
            case INT8: to[fourth] = (char)(whole[k] + OFFSET); break;
            default: ((uint8_t*)to)[nibble] |= (uint8_t)((whole[k] + 8) << (k % 8 / 4 * 4));
            }
        }
    }
}

}  // namespace underlay
