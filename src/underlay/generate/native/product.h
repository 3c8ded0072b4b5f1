// Where products go: their tiles are changed, or added to something, on the way there.
#pragma once

#include "linear.h"

namespace underlay {

constexpr int TILE_STRIDE = MOST_WIDE * PANEL;

enum class Into { STORE, ADD, ACTIVATE, GATE };

// Where the product with a matrix goes. The padding of `out` is written too, with zeros, unless `exact`.
struct Product {
    const Matrix* matrix;
    int slot;                            // of its changes by adapters
    float* out;
    size_t stride;
    Into into = Into::STORE;
    const Matrix* second = nullptr;      // GATE: activation(matrix) * second
    bool exact = false;
    float softcap = 0;
};

// The tiles of `band` rows, the first of which is `row` of the product's. change(v, up, to): what is written to `to`.
template <class Change>
void finish_by(const Product& product, int panel, int panels, int row, int band, const float* tile, const float* second,
               const Change& change) {
    const int wide = panels * PANEL;
    const int columns = product.exact ? std::min(wide, product.matrix->outputs - panel * PANEL) : wide;
    auto bias_of = [&](const Matrix* m) { return m && m->bias ? m->bias.get() + panel * PANEL : nullptr; };
    const float *bias = bias_of(product.matrix), *other_bias = bias_of(product.second);
    for (int r = 0; r < band; r++, tile += TILE_STRIDE, second += TILE_STRIDE) {
        float* to = product.out + (row + r) * product.stride + panel * PANEL;
        for (int i = 0; i < wide; i += LANES) {
            F v = load(tile + i), up = load(second + i);
            if (bias) v = v + load(bias + i);
            if (other_bias) up = up + load(other_bias + i);
            if (i + LANES > columns) {
                v = change(v, up, tile);     // an exact product is added to nothing
                for (int lane = 0; i + lane < columns; lane++) to[i + lane] = v[lane];
            } else store(to + i, change(v, up, to + i));
        }
    }
}

// What is known before a loop need not be asked within.
template <class Do> void known(Activation which, const Do& what) {
    switch (which) {
    case GELU: return what(std::integral_constant<Activation, GELU>{});
    case GELU_TANH: return what(std::integral_constant<Activation, GELU_TANH>{});
    case SILU: return what(std::integral_constant<Activation, SILU>{});
    case RELU: return what(std::integral_constant<Activation, RELU>{});
    case RELU2: return what(std::integral_constant<Activation, RELU2>{});
    }
}

inline void finish(const Product& product, Activation activation, int panel, int panels, int row, int band,
                   const float* tile, const float* second) {
    auto by = [&](const auto& change) { finish_by(product, panel, panels, row, band, tile, second, change); };
    const float cap = product.softcap;
    switch (product.into) {
    case Into::STORE:
        if (cap > 0)
            return by([&](F v, F, const float*) { return splat(cap) * hyperbolic_tangent(v * splat(1 / cap)); });
        return by([](F v, F, const float*) { return v; });
    case Into::ADD: return by([](F v, F, const float* to) { return v + load(to); });
    case Into::ACTIVATE:
        return known(activation, [&](auto which) { by([=](F v, F, const float*) { return activate(which, v); }); });
    case Into::GATE:
        return known(activation, [&](auto which) {
            by([=](F v, F up, const float*) { return activate(which, v) * up; });
        });
    }
}

}  // namespace underlay
