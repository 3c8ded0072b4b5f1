// A decoder as numbers: the layers, their matrices, and what a step keeps between its phases.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "attention.h"
#include "pool.h"
#include "prepared.h"
#include "tile_check.h"

namespace underlay {

// The same structures are declared in runner.py.
struct Shape {
    int32_t depth, width, heads, kv_heads, head_dim, hidden, vocabulary, context;
    int32_t gated, activation, cache, threads;
    float embedding_scale, softcap;      // of logits; 0: none
};

struct Settings {
    float scale, softcap, clip;          // of scores; queries, keys and values; 0: none
    int32_t window, rope, post_norm;     // window 0: all; rope -1: none
};

enum Slot { QUERY, KEY, VALUE, OUTPUT, GATE, UP, DOWN, SLOTS };
enum NormSlot { BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP, OF_QUERY, OF_KEY, NORM_SLOTS };

struct Layer {
    Settings settings;
    Matrix matrices[SLOTS];
    Norm norms[NORM_SLOTS];
};

struct LowRank {
    int rank = 0;
    Buffer<float> down, up;              // [rank][inputs, padded], [rank][outputs, padded]
};

struct Adapter {
    std::vector<LowRank> changes;        // [layer][slot], then the head's; rank 0: none
};

struct Rotation {
    Buffer<float> cos, sin;              // [place][head_dim / 2]
};

// What one sequence reads in a step; its blocks begin at `blocks` in the step's list. Declared in runner.py too.
struct Work {
    int32_t start, tokens, blocks, wanted, adapter;  // adapter -1: none
};

struct Row {
    int work, token, place;
};

struct Model {
    Shape shape;
    Arena arena;                         // of matrices
    std::vector<Layer> layers;
    Matrix head;
    Norm norm;
    Buffer<uint16_t> embedding_half;     // one of the two
    Buffer<float> embedding, positions;
    std::vector<Rotation> rotations;
    std::vector<std::unique_ptr<Adapter>> adapters;
    Cache cache;
    size_t block_bytes;
    tile::State tiles = find_tiles();    // before there are threads, which get the process's permission
    Pool pool;
    std::mutex turn;

    explicit Model(const Shape& given)
        : shape(given), layers(given.depth),
          cache{(Kind)given.cache, given.kv_heads, given.head_dim, (int)round_up(given.head_dim, PANEL)},
          pool(given.threads) {
        block_bytes = round_up(cache.layer_bytes() * given.depth, 64);
    }
    Matrix& matrix(int slot) {
        return slot == shape.depth * SLOTS ? head : layers[slot / SLOTS].matrices[slot % SLOTS];
    }
    Norm& norm_at(int slot) {
        return slot == shape.depth * NORM_SLOTS ? norm : layers[slot / NORM_SLOTS].norms[slot % NORM_SLOTS];
    }
};

}  // namespace underlay
