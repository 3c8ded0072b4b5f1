// What is done to one row by itself: norms, positions, whole numbers for integer products. Rows are padded with zeros
// to a multiple of 16, so that loops need no tails; sums leave the padding out because it is zero.
#pragma once

#include "linear.h"

namespace underlay {

struct Norm {
    enum Type { NONE, RMS, LAYER } type = NONE;
    int width = 0;
    float eps = 0;
    Buffer<float> weight, bias;          // padded; none: one, zero

    explicit operator bool() const { return type != NONE; }
};

inline float total(const float* x, int width, bool squared) {
    F sums[4] = {};                      // chains enough that none waits for itself
    auto add = [&](int chain, int i) {
        F v = load(x + i);
        sums[chain] = squared ? fma(v, v, sums[chain]) : sums[chain] + v;
    };
    const int padded = (int)round_up(width, PANEL);
    int i = 0;
    for (; i + 4 * LANES <= padded; i += 4 * LANES)
        UNROLL for (int chain = 0; chain < 4; chain++) add(chain, i + chain * LANES);
    for (; i < padded; i += LANES) add(0, i);
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// x, to: padded with zeros; they may be the same.
inline void normalise(const Norm& norm, const float* x, float* to) {
    const int padded = (int)round_up(norm.width, PANEL);
    if (norm.type == Norm::LAYER) {
        float mean = total(x, norm.width, false) / norm.width;
        for (int i = 0; i < padded; i += LANES) store(to + i, load(x + i) - splat(mean));
        for (int i = norm.width; i < padded; i++) to[i] = 0;
        x = to;
    }
    float scale = 1 / std::sqrt(total(x, norm.width, true) / norm.width + norm.eps);
    for (int i = 0; i < padded; i += LANES) {
        F v = load(x + i) * splat(scale);
        if (norm.weight) v = v * load(norm.weight.get() + i);
        if (norm.bias) v = v + load(norm.bias.get() + i);
        store(to + i, v);
    }
}

// RMSNorm of one head's channels, which are not padded.
inline void normalise_head(const Norm& norm, float* x) {
    F squares{};
    int i = 0;
    for (; i + LANES <= norm.width; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    float all = sum(squares);
    for (; i < norm.width; i++) all += x[i] * x[i];
    float scale = 1 / std::sqrt(all / norm.width + norm.eps);
    for (i = 0; i < norm.width; i++) x[i] = x[i] * scale * norm.weight[i];
}

// Turn pairs of channels (rotate-half layout) by a place's angles; cos, sin: (size / 2).
inline void turn(float* x, int size, const float* cos, const float* sin) {
    float *first = x, *second = x + size / 2;
    int i = 0;
    for (; i + LANES <= size / 2; i += LANES) {
        F a = load(first + i), b = load(second + i), c = load(cos + i), s = load(sin + i);
        store(first + i, a * c - b * s);
        store(second + i, b * c + a * s);
    }
    for (; i < size / 2; i++) {
        float a = first[i], b = second[i];
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}

// x = q * scale with |q| <= 127; each group of inputs has a scale, and the sum of its q. q: filled up with zeros to 64.
inline void quantise_row(Kind kind, const float* x, int width, int8_t* q, float* scales, int32_t* sums) {
    const int padded = (int)round_up(width, PANEL);
    for (int first = 0, group = 0; first < width; first += GROUP[kind], group++) {
        const int end = std::min(first + GROUP[kind], padded);
        F most{};
        for (int i = first; i < end; i += LANES) most = larger(most, magnitude(load(x + i)));
        const float top = largest(most);
        const float inverse = top > 1e-30f ? 127 / top : 0;
        I total{};
        for (int i = first; i < end; i += LANES) {
            I whole = nearest(load(x + i), inverse);
            total = total + whole;
            store(q + i, narrow(whole));
        }
        sums[group] = sum(total);
        scales[group] = top / 127;
    }
    memset(q + padded, 0, round_up(width, GROUP[INT8]) - padded);
}

// The most likely token, the first of equals; -1 where a logit is NaN, or none is finite above all else.
inline int32_t most_likely(const float* logits, int count) {
    F most = splat(-INFINITY);
    I broken{};
    const int whole = count / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
        F here = load(logits + i);
        most = larger(most, here), broken = broken | (I)(here != here);
    }
    float top = largest(most);
    bool sound = true;
    for (int lane = 0; lane < LANES; lane++) sound &= !broken[lane];
    for (int i = whole; i < count; i++) top = std::max(top, logits[i]), sound &= logits[i] == logits[i];
    if (!sound || !std::isfinite(top)) return -1;
    for (int i = 0; i < whole; i += LANES) {
        I equal = (I)(load(logits + i) == splat(top));
        bool found = false;
        for (int lane = 0; lane < LANES; lane++) found |= equal[lane] != 0;
        if (found) return i + (int)(std::find(logits + i, logits + i + LANES, top) - (logits + i));
    }
    return whole + (int)(std::find(logits + whole, logits + count, top) - (logits + whole));
}

// Logits to the log-probability of one of them.
inline float log_probability(const float* logits, int count, int target) {
    F most = splat(-INFINITY), total{};
    int whole = count / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) most = larger(most, load(logits + i));
    float top = largest(most);
    for (int i = whole; i < count; i++) top = std::max(top, logits[i]);
    for (int i = 0; i < whole; i += LANES) total = total + exponential(load(logits + i) - splat(top));
    double rest = sum(total);
    for (int i = whole; i < count; i++) rest += std::exp(logits[i] - top);
    return (float)(logits[target] - top - std::log(rest));
}

}  // namespace underlay
