// Whether tiles can be trusted on this machine: asked for, and tried on small products, before any matrix is laid out.
#pragma once

#include <vector>

#include "prepared.h"

namespace underlay {

#if defined(UNDERLAY_TILES)

// Random numbers through a matrix of `kind`: near a plain loop, and alike for one row and many; int8 also equal to what
// there is without tiles.
inline bool tiles_are_right(Kind kind) {
    constexpr int OUTPUTS = 40, INPUTS = 850, MANY = 35;
    constexpr size_t PADDED = (INPUTS + 63) / 64 * 64, STRIDE = MOST_WIDE * PANEL;
    uint32_t state = 1;
    auto random = [&](int from, int to) {
        state = state * 1664525 + 1013904223;
        return from + (int)((state >> 8) % (uint32_t)(to - from + 1));
    };
    std::vector<float> weight(OUTPUTS * INPUTS);
    std::vector<int8_t> whole(OUTPUTS * INPUTS);
    for (int i = 0; i < OUTPUTS * INPUTS; i++) {
        weight[i] = from_bfloat16(to_bfloat16((float)random(-999, 999) / 100));
        whole[i] = (int8_t)random(-127, 127);
    }
    Arena arena;
    Matrix m;
    m.kind = kind, m.tiled = true, m.outputs = OUTPUTS, m.inputs = INPUTS, m.panels = (OUTPUTS + PANEL - 1) / PANEL;
    m.panel_bytes = panel_bytes(kind, INPUTS, true);
    m.data = arena.take<char>(m.panels * m.panel_bytes), m.scales = arena.take<float>(m.panels * PANEL);
    for (int j = 0; j < OUTPUTS; j++) m.scales[j] = 0.25f;
    for (int panel = 0; panel < m.panels; panel++)
        pack_panel(m, panel, kind == INT8 ? (const void*)whole.data() : weight.data());

    const int groups = m.groups();
    Buffer<float> x(MANY * PADDED), scales(MANY * groups);
    Buffer<int8_t> q(MANY * PADDED);
    Buffer<int32_t> sums(MANY * groups);
    for (int row = 0; row < MANY; row++) {
        for (int k = 0; k < INPUTS; k++)
            x[row * PADDED + k] = from_bfloat16(to_bfloat16((float)random(-999, 999) / 100));
        if (kind == INT8)
            quantise_row(kind, &x[row * PADDED], INPUTS, &q[row * PADDED], &scales[row * groups], &sums[row * groups]);
    }
    Buffer<char> tiles(BAND * tiled_bytes(INPUTS));
    auto product = [&](int first, int count, Buffer<float>& found) {
        Rows rows;
        rows.whole = &q[first * PADDED], rows.stride = PADDED;
        rows.scales = &scales[first * groups], rows.sums = &sums[first * groups];
        rows.tiles = tiles.get(), rows.tile_rows = tile_rows(count);
        for (int r = 0; r < count; r++)
            lay_in_tiles(kind, INPUTS, &x[(first + r) * PADDED], &q[(first + r) * PADDED], r, count, tiles.get());
        multiply(m, 0, m.panels, rows, 0, count, found.get(), STRIDE, 0);
    };
    auto equal = [&](const Buffer<float>& a, int row, const Buffer<float>& b) {
        return !memcmp(a.get() + row * STRIDE, b.get(), OUTPUTS * sizeof(float));
    };
    Buffer<float> many(BAND * STRIDE), alone(BAND * STRIDE);
    product(0, MANY, many);
    for (int row = 0; row < MANY; row++)
        for (int j = 0; j < OUTPUTS; j++) {
            double real = 0, magnitude = 0;
            for (int k = 0; k < INPUTS; k++) {
                double here = x[row * PADDED + k];
                if (kind == INT8) here = (double)q[row * PADDED + k] * scales[row * groups + k / GROUP[INT8]];
                double product = here * (kind == INT8 ? whole[j * INPUTS + k] * 0.25 : weight[j * INPUTS + k]);
                real += product, magnitude += std::fabs(product);
            }
            // Not "is it further away", which is false of what is no number.
            if (!(std::fabs(many[row * STRIDE + j] - real) <= 1e-5 * magnitude)) return false;
        }
    for (int row : {0, 15, 16, MANY - 1}) {
        product(row, 1, alone);
        if (!equal(many, row, alone)) return false;
    }
    m.tiled = false;
    for (int row = 0; kind == INT8 && row < MANY; row++) {
        product(row, 1, alone);
        if (!equal(many, row, alone)) return false;
    }
    return true;
}

inline tile::State find_tiles() {
    if (!tile::permitted()) return tile::REFUSED;
    bool right = tiles_are_right(BFLOAT16) && tiles_are_right(INT8);
    release_tiles();
    return right ? tile::USED : tile::WRONG;
}

#else

inline tile::State find_tiles() { return tile::ABSENT; }

#endif

}  // namespace underlay
