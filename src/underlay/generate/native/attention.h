// Attention over keys and values that lie in blocks of 16 places (PagedAttention, arXiv:2309.06180).
//
// A block holds, for every layer and key-value head, keys as [channel][16 places], so that the lanes of a vector are
// places, and values as [place][channel], so that they are channels: neither needs sums across lanes. In bfloat16 two
// channels of keys, or two places of values, share a 32-bit lane; int8 has a scale for each place and head. Every
// score, every softmax and every sum of values runs over the places of its own query in their order: row invariance
// again.
#pragma once

#include "linear.h"

namespace underlay {

constexpr int BLOCK = 16;                // places of a block

struct Cache {
    Kind kind;                           // not INT4
    int heads, real, channels;           // of keys and values; channels is `real` in multiples of 16
    size_t part() const { return (size_t)channels * BLOCK * (kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1); }
    // Of one head: keys, values, and for int8 the scales of both.
    size_t head_bytes() const { return 2 * part() + (kind == INT8 ? 2 * BLOCK * 4 : 0); }
    size_t layer_bytes() const { return heads * head_bytes(); }
};

// Of one layer and head, in the blocks of one sequence.
struct Seen {
    const Cache& cache;
    char* pool;                          // at this layer and head, in block 0
    size_t block_bytes;                  // from block to block
    const int32_t* blocks;

    char* keys(int block) const { return pool + blocks[block] * block_bytes; }
    char* values(int block) const { return keys(block) + cache.part(); }
    float* key_scales(int block) const { return (float*)(keys(block) + 2 * cache.part()); }
    float* value_scales(int block) const { return key_scales(block) + BLOCK; }
};

// Returns the scale; to[i * stride].
inline float quantise_int8(const float* x, int count, int8_t* to, size_t stride) {
    const int whole = count / LANES * LANES;
    F most{};
    for (int i = 0; i < whole; i += LANES) most = larger(most, magnitude(load(x + i)));
    float top = largest(most);
    for (int i = whole; i < count; i++) top = std::max(top, std::fabs(x[i]));
    const float inverse = top > 1e-30f ? 127 / top : 0;
    for (int i = 0; i < whole; i += LANES) {
        FEW_BYTES few = narrow(nearest(load(x + i), inverse));
        if (stride == 1) store(to + i, few);
        else
            UNROLL for (int lane = 0; lane < LANES; lane++) to[(i + lane) * stride] = few[lane];
    }
    for (int i = whole; i < count; i++) to[i * stride] = (int8_t)std::nearbyintf(x[i] * inverse);
    return top / 127;
}

// Keep the keys and values [count][stride] of places in one block.
inline void keep(const Seen& seen, int place, int count, const float* keys, const float* values, size_t stride) {
    const int block = place / BLOCK, at = place % BLOCK, channels = seen.cache.channels, real = seen.cache.real;
    char *k = seen.keys(block), *v = seen.values(block);
    switch (seen.cache.kind) {
    case FLOAT32:
        for (int i = 0; i < count; i++) {
            for (int c = 0; c < real; c++) ((float*)k)[c * BLOCK + at + i] = keys[i * stride + c];
            memcpy((float*)v + (size_t)(at + i) * channels, values + i * stride, real * sizeof(float));
        }
        break;
    case BFLOAT16:
        for (int first = 0; first < real; first += 64) {
            const int some = std::min(64, real - first);
            uint16_t half[BLOCK][64];
            for (int i = 0; i < count; i++) {
                to_bfloat16(keys + i * stride + first, some, half[i]);
                if (some % 2) half[i][some] = 0;
            }
            for (int c = 0; c < some; c += 2)
                for (int i = 0; i < count; i++)
                    memcpy((uint32_t*)k + (first + c) / 2 * BLOCK + at + i, half[i] + c, sizeof(uint32_t));
            for (int i = 0; i < count; i++) to_bfloat16(values + i * stride + first, some, half[i]);
            for (int i = 0; i < count; i++) {
                const int here = at + i;
                uint16_t* to = (uint16_t*)v + ((size_t)(here / 2) * channels + first) * 2;
                if (here % 2 == 0 && i + 1 < count) {
                    for (int c = 0; c < some; c++) to[2 * c] = half[i][c], to[2 * c + 1] = half[i + 1][c];
                    i++;
                } else
                    for (int c = 0; c < some; c++) to[2 * c + here % 2] = half[i][c];
            }
        }
        break;
    default:
        for (int i = 0; i < count; i++) {
            const float *key = keys + i * stride, *value = values + i * stride;
            seen.key_scales(block)[at + i] = quantise_int8(key, real, (int8_t*)k + at + i, BLOCK);
            seen.value_scales(block)[at + i] = quantise_int8(value, real, (int8_t*)v + (size_t)(at + i) * channels, 1);
        }
    }
}

// Products of R queries [R][stride] with the keys of P blocks: scores [R][scores_stride].
template <Kind K, int R, int P>
INLINE void meet(const Seen& seen, int block, int end, const float* query, size_t stride, float* scores,
                 size_t scores_stride) {
    F acc[R][P][PARTS] = {};
    const char *keys[P], *next[P];
    UNROLL for (int p = 0; p < P; p++) {
        keys[p] = seen.keys(block + p);
        next[p] = block + P + p < end ? seen.keys(block + P + p) : keys[p];
    }
    constexpr int STEP = K == BFLOAT16 ? 2 : 1, BYTES = K == FLOAT32 ? 4 : K == BFLOAT16 ? 2 : 1;
    const ptrdiff_t values = seen.cache.part();
    for (int c = 0; c < seen.cache.real; c += STEP) {
        // The next blocks and the values are wanted soon, and lie apart, which the processor does not foresee.
        if (c * BLOCK * BYTES % 64 == 0)
            UNROLL for (int p = 0; p < P; p++) {
                __builtin_prefetch(next[p] + c * BLOCK * BYTES, 0, 0);
                __builtin_prefetch(keys[p] + values + c * BLOCK * BYTES, 0, 0);
            }
        UNROLL for (int half = 0; half < STEP; half++)
            UNROLL for (int p = 0; p < P; p++) {
                F w[PARTS];
                UNROLL for (int v = 0; v < PARTS; v++) {
                    int at = c * BLOCK + v * LANES * STEP;
                    if constexpr (K == FLOAT32) w[v] = load((const float*)keys[p] + at);
                    else if constexpr (K == INT8) w[v] = widen((const int8_t*)keys[p] + at);
                    else {
                        U pairs = load_as<U>((const uint16_t*)keys[p] + at);
                        w[v] = half ? odd_half(pairs) : even_half(pairs);
                    }
                }
                UNROLL for (int r = 0; r < R; r++) {
                    F here = splat(query[r * stride + c + half]);
                    UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = fma(here, w[v], acc[r][p][v]);
                }
            }
    }
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int v = 0; v < PARTS; v++)
            UNROLL for (int r = 0; r < R; r++) {
                F score = acc[r][p][v];
                if constexpr (K == INT8) score = score * load(seen.key_scales(block + p) + v * LANES);
                store(scores + r * scores_stride + p * BLOCK + v * LANES, score);
            }
}

// Add to sums [R][stride], P panels of 16 channels, the values of whole blocks by their weights [R][weights_stride],
// which begin with block `base`.
template <Kind K, int R, int P>
INLINE void mix(const Seen& seen, int base, int first, int last, const float* weights, size_t weights_stride,
                int channel, float* sums, size_t stride) {
    F acc[R][P][PARTS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = load(sums + r * stride + p * PANEL + v * LANES);
    const size_t channels = seen.cache.channels;
    constexpr int STEP = K == BFLOAT16 ? 2 : 1;
    for (int block = first; block < last; block++) {
        const char* values = seen.values(block);
        const float* weight = weights + (block - base) * BLOCK;
        for (int place = 0; place < BLOCK; place += STEP)
            UNROLL for (int half = 0; half < STEP; half++)
                UNROLL for (int p = 0; p < P; p++) {
                    F w[PARTS];
                    UNROLL for (int v = 0; v < PARTS; v++) {
                        size_t at = place * channels + (channel + p * PANEL + v * LANES) * STEP;
                        if constexpr (K == FLOAT32) w[v] = load((const float*)values + at);
                        else if constexpr (K == INT8) w[v] = widen((const int8_t*)values + at);
                        else {
                            U pairs = load_as<U>((const uint16_t*)values + at);
                            w[v] = half ? odd_half(pairs) : even_half(pairs);
                        }
                    }
                    UNROLL for (int r = 0; r < R; r++) {
                        F here = splat(weight[r * weights_stride + place + half]);
                        UNROLL for (int v = 0; v < PARTS; v++) acc[r][p][v] = fma(here, w[v], acc[r][p][v]);
                    }
                }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int v = 0; v < PARTS; v++) store(sums + r * stride + p * PANEL + v * LANES, acc[r][p][v]);
}

// The same for places first..last - 1 of one query, wherever they begin and end.
template <Kind K>
void mix_places(const Seen& seen, int base, int first, int last, const float* weights, float* sums) {
    const size_t channels = seen.cache.channels;
    for (int place = first; place < last; place++) {
        const char* values = seen.values(place / BLOCK);
        int at = place % BLOCK;
        F weight = splat(weights[place - base * BLOCK]);
        for (size_t c = 0; c < channels; c += LANES) {
            F w;
            if constexpr (K == FLOAT32) w = load((const float*)values + at * channels + c);
            else if constexpr (K == INT8) w = widen((const int8_t*)values + at * channels + c);
            else {
                U pairs = load_as<U>((const uint16_t*)values + (at / 2 * channels + c) * 2);
                w = at % 2 ? odd_half(pairs) : even_half(pairs);
            }
            store(sums + c, fma(weight, w, load(sums + c)));
        }
    }
}

// A query: where it stands, and the first place that it sees.
struct Asking {
    int place, first;
};

struct AttentionScratch {
    Buffer<float> query, scores, sums;   // [MOST_ROWS][channels], [MOST_ROWS][places], [MOST_ROWS][channels]
    size_t places = 0;
};

// R queries in scratch.query, already scaled; leaves their answers in scratch.sums, still to be divided by totals [R].
template <Kind K, int R>
void attend_rows(const Seen& seen, const Asking* asking, float softcap, AttentionScratch& scratch, float* totals) {
    const size_t channels = seen.cache.channels, stride = scratch.places;
    float* scores = scratch.scores.get();
    int base = asking[0].first / BLOCK, end = asking[0].place / BLOCK + 1;
    for (int r = 1; r < R; r++) {
        base = std::min(base, asking[r].first / BLOCK);
        end = std::max(end, asking[r].place / BLOCK + 1);
    }
    constexpr int P = std::max(1, std::min(MOST_WIDE, ACCUMULATORS / (R * PARTS)));
    int block = base;
    for (; block + P <= end; block += P)
        meet<K, R, P>(seen, block, end, scratch.query.get(), channels, scores + (block - base) * BLOCK, stride);
    if constexpr (P > 2)
        for (; block + 2 <= end; block += 2)
            meet<K, R, 2>(seen, block, end, scratch.query.get(), channels, scores + (block - base) * BLOCK, stride);
    if constexpr (P > 1)
        for (; block < end; block++)
            meet<K, R, 1>(seen, block, end, scratch.query.get(), channels, scores + (block - base) * BLOCK, stride);

    int whole = base, last = end;        // blocks that all queries see wholly
    for (int r = 0; r < R; r++) {
        int first = asking[r].first - base * BLOCK, after = asking[r].place + 1 - base * BLOCK;
        int begin = first / BLOCK * BLOCK, stop = (int)round_up(after, BLOCK);
        float* mine = scores + r * stride;
        for (int i = begin; i < first; i++) mine[i] = -INFINITY;
        for (int i = after; i < stop; i++) mine[i] = -INFINITY;
        if (softcap > 0)
            for (int i = begin; i < stop; i += LANES)
                store(mine + i, splat(softcap) * hyperbolic_tangent(load(mine + i) * splat(1 / softcap)));
        for (int i = after; i < stop; i++) mine[i] = -INFINITY;
        for (int i = begin; i < first; i++) mine[i] = -INFINITY;
        F most[PARTS], total[PARTS] = {};
        UNROLL for (int v = 0; v < PARTS; v++) most[v] = splat(-INFINITY);
        for (int i = begin; i < stop; i += BLOCK)
            UNROLL for (int v = 0; v < PARTS; v++) most[v] = larger(most[v], load(mine + i + v * LANES));
        for (int v = 1; v < PARTS; v++) most[0] = larger(most[0], most[v]);
        F top = splat(largest(most[0]));
        for (int i = begin; i < stop; i += BLOCK)
            UNROLL for (int v = 0; v < PARTS; v++) {
                F weight = exponential(load(mine + i + v * LANES) - top);
                total[v] = total[v] + weight;
                if constexpr (K == INT8) weight = weight * load(seen.value_scales(base + i / BLOCK) + v * LANES);
                store(mine + i + v * LANES, weight);
            }
        for (int v = 1; v < PARTS; v++) total[0] = total[0] + total[v];
        totals[r] = sum(total[0]);
        whole = std::max(whole, (asking[r].first + BLOCK - 1) / BLOCK);
        last = std::min(last, (asking[r].place + 1) / BLOCK);
    }

    float* sums = scratch.sums.get();
    memset(sums, 0, R * channels * sizeof(float));
    bool shared = last > whole;
    for (int r = 0; r < R; r++)
        mix_places<K>(seen, base, asking[r].first, shared ? whole * BLOCK : asking[r].place + 1, scores + r * stride,
                      sums + r * channels);
    if (!shared) return;
    size_t c = 0;
    for (; c + P * PANEL <= channels; c += P * PANEL)
        mix<K, R, P>(seen, base, whole, last, scores, stride, c, sums + c, channels);
    if constexpr (P > 1)
        for (; c < channels; c += PANEL) mix<K, R, 1>(seen, base, whole, last, scores, stride, c, sums + c, channels);
    for (int r = 0; r < R; r++)
        mix_places<K>(seen, base, last * BLOCK, asking[r].place + 1, scores + r * stride, sums + r * channels);
}

template <Kind K>
void attend_kind(int count, const Seen& seen, const Asking* asking, float softcap, AttentionScratch& scratch,
                 float* totals) {
#define UNDERLAY_ROWS(R) \
    case R: return attend_rows<K, R>(seen, asking, softcap, scratch, totals);
    switch (count) {
        UNDERLAY_ROWS(1)
        UNDERLAY_ROWS(2)
        UNDERLAY_ROWS(3)
        UNDERLAY_ROWS(4)
        UNDERLAY_ROWS(5)
        UNDERLAY_ROWS(6)
    }
#undef UNDERLAY_ROWS
}

// `count` queries (MOST_ROWS at most) of one sequence.
inline void attend(int count, const Seen& seen, const Asking* asking, float softcap, AttentionScratch& scratch,
                   float* totals) {
    switch (seen.cache.kind) {
    case FLOAT32: return attend_kind<FLOAT32>(count, seen, asking, softcap, scratch, totals);
    case BFLOAT16: return attend_kind<BFLOAT16>(count, seen, asking, softcap, scratch, totals);
    default: return attend_kind<INT8>(count, seen, asking, softcap, scratch, totals);
    }
}

}  // namespace underlay
