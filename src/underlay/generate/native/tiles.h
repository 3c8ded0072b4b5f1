// Products of whole tiles, for processors that have them: sixteen rows with sixteen outputs at a time. A tile's rows do
// not see each other, and one row and many go through the same instructions over the same inputs in the same order, so
// what linear.h says of rows holds here: nobody's numbers depend on who else is there.
//
// bfloat16: inputs are rounded to bfloat16 too, which is all the instruction takes; sums are float32.
// int8: a tile's inputs are a group, whose sums are exact; what follows is what linear.h does, so results are the same,
// bit for bit.
//
// Rows lie as tiles read them: [row / tile_rows][tile][tile_rows][64].
#pragma once

#include <utility>

#include "tile_instructions.h"

namespace underlay {

// Bytes of a row in tiles, at most, with so many inputs.
inline size_t tiled_bytes(size_t inputs) { return round_up(inputs, 64) * 2; }

// So few rows get tiles of just their number; the last tile of more rows is filled up with whatever lies there.
inline int tile_rows(int rows) { return std::min(rows, TILE_ROWS); }

// One row into its place; rows: how many there are in all. x: bfloat16's, padded to a multiple of 16; q: int8's.
inline void lay_in_tiles(Kind kind, int inputs, const float* x, const int8_t* q, int row, int rows, char* tiles) {
    const int high = tile_rows(rows), number = tiles_of(kind, inputs), filled = (int)round_up(inputs, PANEL);
    char* to = tiles + ((size_t)(row / high) * number * high + row % high) * TILE_WIDTH;
    for (int tile = 0; tile < number; tile++, to += high * TILE_WIDTH)
        if (kind == INT8) memcpy(to, q + tile * TILE_WIDTH, TILE_WIDTH);
        else {
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
    int row_bytes;                       // of the rows in a tile
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
    for (int k = 0; k < walk.tiles; k++, rows += walk.row_bytes, weights += TILE_BYTES) {
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

// Sixteen rows with P panels, of a group of inputs.
template <int P>
INLINE void multiply_int8_tiles(const Walk& walk, int tile, int32_t (*sums)[TILE_ROWS][PANEL]) {
    constexpr int A = 4, B = tile::MATRIX;
    tile::load<A>(walk.rows + tile * walk.row_bytes, TILE_WIDTH);
    repeat<P>([&](auto p) {
        tile::zero<p>();
        load_weights<B + p % 2>(walk.weights + p * walk.apart + tile * TILE_BYTES, walk.ahead);
        tile::multiply_int8<p, A, B + p % 2>();
        tile::store<p>(sums[p], TILE_WIDTH);
    });
}

// Add the groups' sums, scaled, of `count` rows and P panels.
template <int P>
APART void add_int8_tiles(const Matrix& m, int panel, const Walk& walk, bool begins, bool ends, const float* scales,
                          const int32_t* of_inputs, int count, float* tile, size_t stride) {
    alignas(64) int32_t sums[P][TILE_ROWS][PANEL];
    const size_t groups = m.groups();
    for (int group = 0; group < walk.tiles; group++) {
        multiply_int8_tiles<P>(walk, group, sums);
        for (int r = 0; r < count; r++) {
            F scale = splat(scales[r * groups + group]);
            I offset = splat(OFFSET * of_inputs[r * groups + group]);
            for (int i = 0; i < P * PANEL; i += LANES) {
                float* to = tile + r * stride + i;
                I found = load_as<I>(&sums[i / PANEL][r][i % PANEL]) - offset;
                store(to, fma(to_float(found), scale, begins && group == 0 ? F{} : load(to)));
            }
        }
    }
    if (!ends) return;
    for (int r = 0; r < count; r++)
        for (int i = 0; i < P * PANEL; i += LANES) {
            float* to = tile + r * stride + i;
            store(to, load(to) * load(m.scales + panel * PANEL + i));
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
    const int together = single || whole ? MOST_WIDE : 2, most = whole ? 1 : 2;  // panels, and sixteens of rows
    const int row_bytes = rows.tile_rows * TILE_WIDTH;
    configure_tiles(rows.tile_rows);
    for (int first = 0; first < all; first += depth)
        for (int done = 0; done < panels; done += together) {
            const int tiles = std::min(depth, all - first), few = std::min(together, panels - done), at = panel + done;
            const bool begins = first == 0, ends = first + tiles == all;
            const bool next = at + soon + few <= m.panels;
            for (int from = 0, turn = 0; from < count; from += most * TILE_ROWS, turn++) {
                const int left = count - from, high = left > TILE_ROWS ? most : 1;
                const size_t sixteenth = (row + from) / TILE_ROWS, next_rows = (size_t)all * row_bytes;
                ptrdiff_t ahead = single ? TILES_AHEAD : turn == 1 && next ? (ptrdiff_t)(soon * m.panel_bytes) : 0;
                Walk walk = {rows.tiles + sixteenth * next_rows + (size_t)first * row_bytes, next_rows, row_bytes,
                             m.panel(at) + (size_t)first * TILE_BYTES, m.panel_bytes, tiles, ahead};
                float* sums = tile + from * stride + done * PANEL;
                if (!whole) {
                    add_bfloat16_tiles(high, few, walk, begins, sums, stride);
                    continue;
                }
                const size_t group = (size_t)(row + from) * all + first;
                const float* scales = rows.scales + group;
                const int32_t* of_inputs = rows.sums + group;
                const int here = std::min(left, TILE_ROWS);
                switch (few) {
                case 1: add_int8_tiles<1>(m, at, walk, begins, ends, scales, of_inputs, here, sums, stride); break;
                case 2: add_int8_tiles<2>(m, at, walk, begins, ends, scales, of_inputs, here, sums, stride); break;
                case 3: add_int8_tiles<3>(m, at, walk, begins, ends, scales, of_inputs, here, sums, stride); break;
                case 4: add_int8_tiles<4>(m, at, walk, begins, ends, scales, of_inputs, here, sums, stride); break;
                }
            }
        }
}

#else

inline void release_tiles() {}
inline void multiply_tiled(const Matrix&, int, int, const Rows&, int, int, float*, size_t, int) {}

#endif

}  // namespace underlay
