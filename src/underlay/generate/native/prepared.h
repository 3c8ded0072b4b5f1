// Rows as a matrix wants them: normalised, and in its numbers.
#pragma once

#include "rows.h"

namespace underlay {

class Prepared {
  public:
    void reserve(size_t rows, size_t inputs) {
        x.reserve(rows * inputs), halves.reserve(rows * inputs);
        whole.reserve(rows * round_up(inputs, GROUP[INT8]));
        scales.reserve(rows * (inputs / GROUP[INT4] + 1)), sums.reserve(rows * (inputs / GROUP[INT4] + 1));
        tiles.reserve(round_up(rows, TILE_ROWS) * tiled_bytes(inputs));
    }

    // Whether a matrix takes rows just as they are.
    static bool needless(const Matrix& matrix, const Norm& norm) { return takes_floats(matrix) && !norm; }

    // Put a row there, one of `many`, from [stride] padded with zeros; returns it normalised.
    const float* put(const Matrix& matrix, const Norm& norm, const float* from, size_t stride, int row, int many) {
        float* to = x.get() + row * stride;
        if (norm) normalise(norm, from, to), from = to;
        else if (takes_floats(matrix)) memcpy(to, from, stride * sizeof(float));
        const size_t groups = matrix.groups();
        int8_t* in_whole = whole.get() + row * round_up(matrix.inputs, GROUP[INT8]);
        if (is_whole(matrix))
            quantise_row(matrix.kind, from, matrix.inputs, in_whole, scales.get() + row * groups,
                         sums.get() + row * groups);
        if (matrix.tiled) lay_in_tiles(matrix.kind, matrix.inputs, from, in_whole, row, many, tiles.get());
        else if (takes_halves(matrix)) to_bfloat16(from, (int)stride, halves.get() + row * stride);
        return from;
    }

    // All that were put there.
    Rows rows(const Matrix& matrix, size_t stride, int many) const {
        Rows result;
        result.x = x.get(), result.halves = halves.get(), result.whole = whole.get();
        result.stride = is_whole(matrix) ? round_up(matrix.inputs, GROUP[INT8]) : stride;
        result.scales = scales.get(), result.sums = sums.get();
        result.tiles = tiles.get(), result.tile_rows = tile_rows(many);
        return result;
    }

  private:
    static bool is_whole(const Matrix& matrix) { return matrix.kind == INT8 || matrix.kind == INT4; }
    static bool takes_halves(const Matrix& matrix) { return PAIRED && matrix.kind == BFLOAT16; }
    static bool takes_floats(const Matrix& matrix) {
        return !is_whole(matrix) && !takes_halves(matrix) && !matrix.tiled;
    }

    Buffer<float> x, scales;
    Buffer<uint16_t> halves;
    Buffer<int8_t> whole;
    Buffer<int32_t> sums;
    Buffer<char> tiles;
};

}  // namespace underlay
