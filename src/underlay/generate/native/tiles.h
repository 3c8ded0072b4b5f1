// Products of whole tiles, for processors that have them: sixteen rows with sixteen outputs at a time. A tile's rows do
// not see each other, and one row and many go through the same instructions over the same inputs in the same order, so
// what linear.h says of rows holds here: nobody's numbers depend on who else is there.
//
// bfloat16: inputs are rounded to bfloat16 too, which is all the instruction takes; sums are float32.
// int8: an input's int16 is two bytes, the upper one signed, the lower one not. Each is multiplied by itself and
// 256 upper + lower is the sum that linear.h has, in the same int32; so results are the same, bit for bit.
//
// Rows lie as tiles read them: [row / tile_rows][tile][byte, of int8: lower, upper][tile_rows][64].
#pragma once

#include <utility>

#include "tile_instructions.h"

namespace underlay {

// Bytes of a row in tiles, at most, with so many inputs.
inline size_t tiled_bytes(size_t inputs) { return round_up(inputs, 64) * 2; }

// So few rows get tiles of just their number; the last tile of more rows is filled up with whatever lies there.
inline int tile_rows(int rows) { return std::min(rows, TILE_ROWS); }

// One row into its place; rows: how many there are in all. x: bfloat16's, q: int8's, padded to a multiple of 16.
inline void lay_in_tiles(Kind kind, int inputs, const float* x, const int16_t* q, int row, int rows, char* tiles) {
    const int high = tile_rows(rows), number = tiles_of(kind, inputs), parts = kind == INT8 ? 2 : 1;
    const int part_bytes = high * TILE_WIDTH, filled = (int)round_up(inputs, PANEL);
    char* to = tiles + (size_t)(row / high) * number * parts * part_bytes + row % high * TILE_WIDTH;
    for (int tile = 0; tile < number; tile++, to += parts * part_bytes)
        if (kind == INT8) {
            const int first = tile * 64, count = std::min(64, filled - first);
            int8_t lower[64] = {}, upper[64] = {};
            for (int i = 0; i < count; i++) lower[i] = (int8_t)q[first + i], upper[i] = (int8_t)(q[first + i] >> 8);
            memcpy(to, lower, sizeof lower), memcpy(to + part_bytes, upper, sizeof upper);
        } else {
            const int first = tile * 32, count = std::min(32, filled - first);
            uint16_t half[32] = {};
            to_bfloat16(x + first, count, half);
            memcpy(to, half, sizeof half);
        }
}

#if defined(UNDERLAY_TILES)

constexpr int TILE_DEPTH = 12;           // tiles of inputs that many rows walk at a time: those of two panels stay in L1
constexpr ptrdiff_t TILES_AHEAD = 4 * TILE_BYTES;  // what few rows fetch, since memory is all that they wait for

inline thread_local int tiles_configured = 0;  // their rows; 0: not at all

inline void configure_tiles(int rows) {
    if (rows == tiles_configured) return;
    tile::load_configuration(tile::Configuration(rows));
    tiles_configured = rows;
}

// What a thread does at the end of its part of a step: the system need not save what nobody needs.
inline void release_tiles() {
    if (tiles_configured) tile::release();
    tiles_configured = 0;
}

template <int... N, class Do> INLINE void repeat(std::integer_sequence<int, N...>, const Do& what) {
    (what(std::integral_constant<int, N>{}), ...);
}
template <int N, class Do> INLINE void repeat(const Do& what) { repeat(std::make_integer_sequence<int, N>{}, what); }

// A tile of a matrix, and what lies `ahead` bytes further on is fetched.
template <int T> INLINE void load_weights(const char* from, ptrdiff_t ahead) {
    tile::load<T>(from, TILE_WIDTH);
    if (ahead)
        UNROLL for (int line = 0; line < TILE_ROWS; line++)
            __builtin_prefetch(from + ahead + line * TILE_WIDTH, 0, 2);
}

// What a product of tiles goes through.
struct Walk {
    const char* rows;                    // the first tile of the first sixteen; the next sixteen lie `next` bytes on
    size_t next;
    int part_bytes;                      // of the rows in a tile
    const char* weights;                 // the first tile of the first panel
    size_t apart;                        // panels
    int tiles;
    ptrdiff_t ahead;
};

// R times sixteen rows with P panels; sums begin at zero or as they are.
template <int R, int P> APART void multiply_bfloat16_tiles(const Walk& walk, bool begins, float* sums, size_t stride) {
    static_assert(R * P <= 4 && R <= 2, "tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights");
    constexpr int A = 4, B = tile::MATRIX;
    repeat<R * P>([&](auto n) {
        float* at = sums + n / P * TILE_ROWS * stride + n % P * PANEL;
        if (begins) tile::zero<n>();
        else tile::load<n>(at, stride * sizeof(float));
    });
    const char *rows = walk.rows, *weights = walk.weights;
    for (int k = 0; k < walk.tiles; k++, rows += walk.part_bytes, weights += TILE_BYTES) {
        repeat<R>([&](auto r) { tile::load<A + r>(rows + r * walk.next, TILE_WIDTH); });
        repeat<P>([&](auto p) {
            load_weights<B + p % 2>(weights + p * walk.apart, walk.ahead);
            repeat<R>([&](auto r) { tile::multiply_bfloat16<r * P + p, A + r, B + p % 2>(); });
        });
    }
    repeat<R * P>([&](auto n) {
        tile::store<n>(sums + n / P * TILE_ROWS * stride + n % P * PANEL, stride * sizeof(float));
    });
}

// Sixteen rows with P panels: two sums each, of lower and of upper bytes.
template <int P> APART void multiply_int8_tiles(const Walk& walk, int32_t (*lower)[TILE_ROWS][PANEL],
                                                int32_t (*upper)[TILE_ROWS][PANEL]) {
    constexpr int LOWER = 4, UPPER = 5, B = tile::MATRIX;
    repeat<2 * P>([&](auto n) { tile::zero<n>(); });
    const char *rows = walk.rows, *weights = walk.weights;
    for (int k = 0; k < walk.tiles; k++, rows += 2 * walk.part_bytes, weights += TILE_BYTES) {
        tile::load<LOWER>(rows, TILE_WIDTH);
        tile::load<UPPER>(rows + walk.part_bytes, TILE_WIDTH);
        repeat<P>([&](auto p) {
            load_weights<B + p>(weights + p * walk.apart, walk.ahead);
            tile::multiply_unsigned<p, LOWER, B + p>();
            tile::multiply_signed<P + p, UPPER, B + p>();
        });
    }
    repeat<P>([&](auto p) {
        tile::store<p>(lower[p], TILE_WIDTH);
        tile::store<P + p>(upper[p], TILE_WIDTH);
    });
}

// Sums of `count` rows and some panels; they are int32 until the last inputs have come.
inline void add_int8_tiles(const Matrix& m, int panel, int panels, const Walk& walk, bool begins, bool ends,
                           const float* scale, int count, float* sums, size_t stride) {
    alignas(64) int32_t lower[2][TILE_ROWS][PANEL], upper[2][TILE_ROWS][PANEL];
    if (panels == 2) multiply_int8_tiles<2>(walk, lower, upper);
    else multiply_int8_tiles<1>(walk, lower, upper);
    for (int p = 0; p < panels; p++)
        for (int v = 0; v < PANEL; v += LANES) {
            F of_outputs = load(m.scales.get() + (panel + p) * PANEL + v);
            for (int r = 0; r < count; r++) {
                float* to = sums + r * stride + p * PANEL + v;
                U all = load_as<U>(&lower[p][r][v]) + (load_as<U>(&upper[p][r][v]) << 8);
                if (!begins) all = all + load_as<U>(to);
                if (ends) store(to, to_float((I)all) * of_outputs * splat(scale[r]));
                else store(to, all);
            }
        }
}

inline void add_bfloat16_tiles(int high, int panels, const Walk& walk, bool begins, float* sums, size_t stride) {
    switch (4 * high + panels) {
    case 4 + 1: return multiply_bfloat16_tiles<1, 1>(walk, begins, sums, stride);
    case 4 + 2: return multiply_bfloat16_tiles<1, 2>(walk, begins, sums, stride);
    case 4 + 3: return multiply_bfloat16_tiles<1, 3>(walk, begins, sums, stride);
    case 4 + 4: return multiply_bfloat16_tiles<1, 4>(walk, begins, sums, stride);
    case 8 + 1: return multiply_bfloat16_tiles<2, 1>(walk, begins, sums, stride);
    case 8 + 2: return multiply_bfloat16_tiles<2, 2>(walk, begins, sums, stride);
    }
}

// `multiply` of linear.h. row: a multiple of BAND; tile: BAND rows, of which some beyond `count` are written too.
inline void multiply_tiled(const Matrix& m, int panel, int panels, const Rows& rows, int row, int count, float* tile,
                           size_t stride, int soon) {
    const bool whole = m.kind == INT8, single = count <= TILE_ROWS;
    const int all = tiles_of(m.kind, m.inputs), depth = single ? all : TILE_DEPTH;
    const int together = single && !whole ? MOST_WIDE : 2, most = whole ? 1 : 2;  // panels, and sixteens of rows
    const int part_bytes = rows.tile_rows * TILE_WIDTH, tile_bytes = part_bytes * (whole ? 2 : 1);
    configure_tiles(rows.tile_rows);
    for (int first = 0; first < all; first += depth)
        for (int done = 0; done < panels; done += together) {
            const int tiles = std::min(depth, all - first), few = std::min(together, panels - done), at = panel + done;
            const bool begins = first == 0, ends = first + tiles == all;
            const bool next = at + soon + few <= m.panels;
            for (int from = 0, turn = 0; from < count; from += most * TILE_ROWS, turn++) {
                const int left = count - from, high = left > TILE_ROWS ? most : 1;
                const size_t sixteenth = (row + from) / TILE_ROWS, next_rows = (size_t)all * tile_bytes;
                ptrdiff_t ahead = single ? TILES_AHEAD : turn == 1 && next ? (ptrdiff_t)(soon * m.panel_bytes) : 0;
                Walk walk = {rows.tiles + sixteenth * next_rows + (size_t)first * tile_bytes, next_rows, part_bytes,
                             m.panel(at) + (size_t)first * TILE_BYTES, m.panel_bytes, tiles, ahead};
                float* sums = tile + from * stride + done * PANEL;
                if (whole)
                    add_int8_tiles(m, at, few, walk, begins, ends, rows.scale + row + from,
                                   std::min(left, TILE_ROWS), sums, stride);
                else add_bfloat16_tiles(high, few, walk, begins, sums, stride);
            }
        }
}

#else

inline void release_tiles() {}
inline void multiply_tiled(const Matrix&, int, int, const Rows&, int, int, float*, size_t, int) {}

#endif

}  // namespace underlay
