// Whether tiles can be trusted on this machine: asked for, and tried on small products, before any matrix is laid out.
#pragma once

#include <vector>

#include "tiles.h"

namespace underlay {

#if defined(UNDERLAY_TILES)

// Random numbers through a matrix of `kind`: near a plain loop (int8: equal to it), and alike for one row and many.
inline bool tiles_are_right(Kind kind) {
    constexpr int OUTPUTS = 40, INPUTS = 850, MANY = 35;
    constexpr size_t PADDED = (INPUTS + PANEL - 1) / PANEL * PANEL, STRIDE = MOST_WIDE * PANEL;
    uint32_t state = 1;
    auto random = [&](int from, int to) {
        state = state * 1664525 + 1013904223;
        return from + (int)((state >> 8) % (uint32_t)(to - from + 1));
    };
    std::vector<float> weight(OUTPUTS * INPUTS), x(MANY * PADDED), scale(MANY, 0.5f);
    std::vector<int8_t> whole(OUTPUTS * INPUTS);
    std::vector<int16_t> q(MANY * PADDED);
    const int steps = most_steps(INT8, INPUTS);
    for (int i = 0; i < OUTPUTS * INPUTS; i++) {
        weight[i] = from_bfloat16(to_bfloat16((float)random(-999, 999) / 100));
        whole[i] = (int8_t)random(-127, 127);
    }
    for (int row = 0; row < MANY; row++)
        for (int k = 0; k < INPUTS; k++) {
            x[row * PADDED + k] = from_bfloat16(to_bfloat16((float)random(-999, 999) / 100));
            q[row * PADDED + k] = (int16_t)random(-steps, steps);
        }

    Matrix m;
    m.kind = kind, m.tiled = true, m.outputs = OUTPUTS, m.inputs = INPUTS, m.panels = (OUTPUTS + PANEL - 1) / PANEL;
    m.panel_bytes = panel_bytes(kind, INPUTS, true);
    m.data.reserve(m.panels * m.panel_bytes), m.scales.reserve(m.panels * PANEL);
    for (int j = 0; j < OUTPUTS; j++) m.scales[j] = 0.25f;
    for (int panel = 0; panel < m.panels; panel++)
        pack_panel(m, panel, kind == INT8 ? (const void*)whole.data() : weight.data());

    Buffer<char> tiles(BAND * tiled_bytes(INPUTS));
    auto product = [&](int first, int count, Buffer<float>& sums) {
        Rows rows;
        rows.scale = scale.data(), rows.tiles = tiles.get(), rows.tile_rows = tile_rows(count);
        for (int r = 0; r < count; r++)
            lay_in_tiles(kind, INPUTS, &x[(first + r) * PADDED], &q[(first + r) * PADDED], r, count, tiles.get());
        multiply_tiled(m, 0, m.panels, rows, 0, count, sums.get(), STRIDE, 0);
    };
    Buffer<float> many(BAND * STRIDE), alone(BAND * STRIDE);
    product(0, MANY, many);
    for (int row = 0; row < MANY; row++)
        for (int j = 0; j < OUTPUTS; j++) {
            double real = 0, magnitude = 0;
            int64_t exact = 0;
            for (int k = 0; k < INPUTS; k++) {
                double product = (double)x[row * PADDED + k] * weight[j * INPUTS + k];
                real += product, magnitude += std::fabs(product);
                exact += (int64_t)q[row * PADDED + k] * whole[j * INPUTS + k];
            }
            float found = many[row * STRIDE + j];
            // Not "is it further away", which is false of what is no number.
            bool right = kind == INT8 ? found == (float)exact * 0.25f * 0.5f : std::fabs(found - real) <= 1e-5 * magnitude;
            if (!right) return false;
        }
    for (int row : {0, 15, 16, MANY - 1}) {
        product(row, 1, alone);
        if (memcmp(alone.get(), many.get() + row * STRIDE, OUTPUTS * sizeof(float))) return false;
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
