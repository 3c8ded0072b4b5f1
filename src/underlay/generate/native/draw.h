// Choosing a token by chance, and saying how likely tokens are. A row of logits becomes weights e^((l - most) / T), of
// which few count: those within some distance of the best are collected, as many as it takes for all that top-k, top-p,
// typical and min-p can keep to be among them. Nothing is sorted as a whole: which tokens make up a mass, a histogram
// tells all but those in one of its bins. A row is always worked on by one thread, in the same order.
#pragma once

#include <algorithm>
#include <cfloat>
#include <vector>

#include "vector.h"

namespace underlay {

constexpr int DOUBLES = LANES / 2;
constexpr int STRETCH = 64;              // logits whose highest is remembered, and whose weights are summed together
typedef double D __attribute__((vector_size(8 * DOUBLES)));
typedef int64_t L __attribute__((vector_size(8 * DOUBLES)));
typedef float FEW_FLOATS __attribute__((vector_size(4 * DOUBLES)));

INLINE D splat_double(double x) { return x - D{}; }

INLINE D fma(D a, D b, D c) {
#if defined(UNDERLAY_AVX512)
    return (D)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(UNDERLAY_AVX2)
    return (D)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(UNDERLAY_NEON)
    return (D)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

constexpr double LOWEST = -708;          // e^x of less is no ordinary double any more, and counts as 0
constexpr double FLOOR = LOWEST - 1;     // no logarithm of a weight is below
constexpr double REACHES[] = {-2, -4, -6, -8, -11, -15, -20, LOWEST};
constexpr double SERIES[] = {            // Taylor's, of e^x; what it leaves out is below 1e-17 for |x| < log(2) / 2
    1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0,
    1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 1 / 2.0, 1, 1};

// e^x for x of FLOOR to 0, within 2 units in the last place; 0 below LOWEST.
INLINE D exponential(D x) {
    D turns = fma(x, splat_double(1.4426950408889634), splat_double(6755399441055744.0));  // rounds to an integer
    L whole = (L)turns << 52;
    turns = turns - 6755399441055744.0;
    D r = fma(turns, splat_double(-6.93147180369123816490e-01), x);
    r = fma(turns, splat_double(-1.90821492927058770002e-10), r);
    D p{};
    UNROLL for (double term : SERIES) p = fma(p, r, splat_double(term));
    D result = (D)((L)p + whole);
    return x < splat_double(LOWEST) ? D{} : result;
}

// How one token is chosen: numbers as draw.py writes them. top_k 0: all.
struct Choice {
    double row, number, temperature, top_k, top_p, typical, min_p;
};

struct Candidate {
    double key, weight;                  // the lowest key comes first, then the highest weight, then the lowest id
    int32_t id;

    // Bins are finer near 0: 64 for each power of two from 2^-10 to 2^10.
    static constexpr int BINS = 20 * 64 + 1;
    int bin() const {
        float small = (float)key;
        int32_t bits;
        memcpy(&bits, &small, 4);
        return std::min(std::max((bits >> 17) - ((127 - 10) << 6), 0), BINS - 1);
    }

    bool operator<(const Candidate& other) const {
        if (key != other.key) return key < other.key;
        return weight != other.weight ? weight > other.weight : id < other.id;
    }
};

class Drawer {
  public:
    // Get ready for rows of so many logits; all memory is allocated here.
    void prepare(int vocabulary) {
        size = vocabulary, stretches = (size + STRETCH - 1) / STRETCH;
        highest.resize(stretches), masses.resize(stretches), weights.resize(stretches * STRETCH);
        ids.resize(stretches * STRETCH), kept.reserve(size), others.resize(size), bins.resize(Candidate::BINS);
    }

    // The token of one row; -1 where a logit is NaN or the best is infinite.
    int draw(const float* row, const Choice& choice) {
        if (!survey(row, choice.temperature)) return -1;
        const bool ranked = choice.top_k > 0 && choice.top_k < size;
        const bool typical = choice.typical < 1;
        const bool narrow = ranked || choice.top_p < 1;
        if (choice.top_k == 0 && !narrow && !typical && choice.min_p == 0) return among_all(choice.number);
        if (!ranked && (choice.top_p < 1 || typical)) weigh();
        if (typical && !narrow) collect_around(moment / mass, choice.typical);
        else collect(choice, ranked, typical);
        if (ranked) {
            keep_best((size_t)choice.top_k);
            mass = total();
        }
        if (choice.top_p < 1) kept.resize(reach(choice.top_p * mass));
        if (typical) {
            if (narrow) key_by_distance();
            kept.resize(reach(choice.typical * (narrow ? total() : mass)));
            key_by_rank();
        }
        if (choice.min_p > 0) {
            double best = 0;
            for (const Candidate& one : kept) best = std::max(best, one.weight);
            auto unlikely = [&](const Candidate& one) { return one.weight < choice.min_p * best; };
            kept.erase(std::remove_if(kept.begin(), kept.end(), unlikely), kept.end());
        }
        return kept[reach(std::nextafter(choice.number * total(), INFINITY)) - 1].id;
    }

    // The log-probability of one token, and the `count` most likely ones with theirs; NaN where there is none.
    double tell(const float* row, int token, int count, int32_t* names, double* values) {
        if (!survey(row, 1)) {
            std::fill(names, names + count, 0), std::fill(values, values + count, NAN);
            return NAN;
        }
        const double rest = std::log(mass_in_floats());
        if (count) {
            collect({0, 0, 1, (double)count, 1, 1, 0}, true, false);
            keep_best(count);
            std::sort(kept.begin(), kept.end());
            for (int i = 0; i < count; i++) {
                bool known = i < (int)kept.size();  // the others are impossible
                names[i] = known ? kept[i].id : 0, values[i] = known ? distance(kept[i].id) - rest : -INFINITY;
            }
        }
        return distance(token) - rest;
    }

  private:
    const float* logits;
    float tail[STRETCH];                 // the last stretch, filled up with what is impossible
    int size, stretches;
    float most;
    double sharpness;
    std::vector<float> highest;          // of each stretch
    bool weighed;                        // whether there are weights of all tokens, and their sums
    std::vector<double> weights, masses;
    double mass, moment;                 // sums over the row: of the weights w, and of w log(w)
    std::vector<int32_t> ids;
    std::vector<Candidate> kept, others;
    std::vector<double> bins;

    const float* stretch(int index) const { return (index + 1) * STRETCH <= size ? logits + index * STRETCH : tail; }
    float distance(int id) const { return logits[id] - most; }
    double log_weight(int id) const { return std::max(distance(id) * sharpness, FLOOR); }

    // Look at a row for the first time. False where it is no distribution.
    bool survey(const float* row, double temperature) {
        logits = row, weighed = false;
        // The smallest temperatures have no finite inverse; that it is multiplied with 0 must give 0 all the same.
        sharpness = std::min(1 / temperature, 1e300);
        std::fill(tail, tail + STRETCH, -INFINITY);
        if (size % STRETCH) std::copy(row + size / STRETCH * STRETCH, row + size, tail);
        I broken{};
        most = -INFINITY;
        for (int s = 0; s < stretches; s++) {
            const float* from = stretch(s);
            F best = load(from);
            UNROLL for (int i = 0; i < STRETCH; i += LANES) {
                F v = load(from + i);
                broken |= v != v;
                best = larger(best, v);
            }
            highest[s] = largest(best);
            most = std::max(most, highest[s]);
        }
        for (int lane = 0; lane < LANES; lane++)
            if (broken[lane]) return false;
        return std::isfinite(most);
    }

    INLINE D log_weights(const float* from) const {
        FEW_FLOATS apart = load_as<FEW_FLOATS>(from) - most;
        D x = __builtin_convertvector(apart, D) * sharpness;
        return x < splat_double(FLOOR) ? splat_double(FLOOR) : x;
    }

    // The weights of the whole row, and their sums.
    void weigh() {
        mass = moment = 0, weighed = true;
        for (int s = 0; s < stretches; s++) {
            const float* from = stretch(s);
            D sums[2] = {}, moments[2] = {};
            for (int i = 0; i < STRETCH; i += 2 * DOUBLES)
                UNROLL for (int side = 0; side < 2; side++) {
                    D x = log_weights(from + i + side * DOUBLES), w = exponential(x);
                    store(&weights[s * STRETCH + i + side * DOUBLES], w);
                    sums[side] = sums[side] + w;
                    moments[side] = fma(w, x, moments[side]);
                }
            masses[s] = sum(sums[0] + sums[1]);
            mass += masses[s], moment += sum(moments[0] + moments[1]);
        }
    }

    // The sum of the weights at temperature 1, within some 1e-7 of it.
    double mass_in_floats() const {
        double whole = 0;
        for (int s = 0; s < stretches; s++) {
            F part{};
            for (int i = 0; i < STRETCH; i += LANES) part = part + exponential(load(stretch(s) + i) - splat(most));
            whole += underlay::sum(part);
        }
        return whole;
    }

    static double sum(D v) {
        double all = v[0];
        for (int i = 1; i < DOUBLES; i++) all += v[i];
        return all;
    }

    // The token at which the running sum over all of them passes a fraction of the whole.
    int among_all(double fraction) {
        weigh();
        const double target = fraction * mass;
        double before = 0;
        int s = 0, last = -1;
        while (s + 1 < stretches && before + masses[s] <= target) before += masses[s++];
        for (int id = s * STRETCH; id < (s + 1) * STRETCH; id++) {
            if (weights[id] > 0) last = id;
            if ((before += weights[id]) > target) break;
        }
        return last;                     // the sum of a stretch may be rounded otherwise than the sums along it
    }

    // How many tokens pass a test, and the sum of their weights where these are known. A test takes numbers in vectors.
    template <class Test> std::pair<int64_t, double> measure(float limit, Test test) const {
        D part{};
        L count{};
        for (int s = 0; s < stretches; s++) {
            if (!(highest[s] - most >= limit)) continue;
            for (int i = 0; i < STRETCH; i += DOUBLES) {
                L passed = test(stretch(s) + i);
                count -= passed;
                if (weighed) part = part + (D)((L)load_as<D>(&weights[s * STRETCH + i]) & passed);
            }
        }
        int64_t all = 0;
        for (int lane = 0; lane < DOUBLES; lane++) all += count[lane];
        return {all, sum(part)};
    }

    template <class Test> void take(float limit, Test test) {
        size_t count = 0;
        for (int s = 0; s < stretches; s++) {
            if (!(highest[s] - most >= limit)) continue;
            for (int i = 0; i < STRETCH; i += DOUBLES) {
                L passed = test(stretch(s) + i);
                for (int lane = 0; lane < DOUBLES; lane++) ids[count] = s * STRETCH + i + lane, count -= passed[lane];
            }
        }
        kept.resize(count);
        for (size_t first = 0; first < count; first += DOUBLES) {
            D x{};
            size_t end = std::min(count, first + DOUBLES);
            for (size_t i = first; i < end; i++) x[i - first] = log_weight(ids[i]);
            if (!weighed) {
                D w = exponential(x);
                for (size_t i = first; i < end; i++) kept[i] = {-x[i - first], w[i - first], ids[i]};
            } else
                for (size_t i = first; i < end; i++) kept[i] = {-x[i - first], weights[ids[i]], ids[i]};
        }
    }

    // Collect all that top-k, top-p and min-p can keep, and perhaps more.
    void collect(const Choice& choice, bool ranked, bool typical) {
        for (double reach : REACHES) {
            const float limit = (float)std::max(reach * std::max(choice.temperature, 1e-300), -(double)FLT_MAX);
            auto near = [&](const float* from) {
                return __builtin_convertvector(load_as<FEW_FLOATS>(from) - most >= limit, L);
            };
            // Rounding must not decide: a little more than enough is collected.
            bool enough = reach == LOWEST;
            enough |= 2 * std::exp(reach) <= choice.min_p && !typical && !(ranked && choice.top_p < 1);
            if (!enough) {
                auto [count, part] = measure(limit, near);
                enough = ranked ? count >= choice.top_k : choice.top_p < 1 && part >= (choice.top_p + 1e-9) * mass;
            }
            if (enough) return take(limit, near);
        }
    }

    // Collect the tokens whose surprise is nearest to what is expected, up to the share of the whole mass.
    void collect_around(double centre, double share) {
        for (double reach : REACHES) {
            auto near = [&](const float* from) {
                D apart = log_weights(from) - centre;
                return (apart <= splat_double(-reach / 2)) & (apart >= splat_double(reach / 2));
            };
            if (reach == LOWEST || measure(-INFINITY, near).second >= (share + 1e-9) * mass) {
                take(-INFINITY, near);
                break;
            }
        }
        for (Candidate& one : kept) one.key = std::abs(log_weight(one.id) - centre);
    }

    // Surprise is log(mass) - log(w), and entropy its mean: how far they are apart does not depend on the mass.
    void key_by_distance() {
        double whole = total(), sum = 0;
        for (const Candidate& one : kept) sum += one.weight * log_weight(one.id);
        for (Candidate& one : kept) one.key = std::abs(log_weight(one.id) - sum / whole);
    }

    void key_by_rank() {
        for (Candidate& one : kept) one.key = -log_weight(one.id);
    }

    double total() const {
        double sum = 0;
        for (const Candidate& one : kept) sum += one.weight;
        return sum;
    }

    void keep_best(size_t count) {
        if (count >= kept.size()) return;
        std::nth_element(kept.begin(), kept.begin() + count, kept.end());
        kept.resize(count);
    }

    // How many of the first ones it takes to make up so much mass, at least one; they are moved to the front.
    size_t reach(double wanted) {
        size_t first = 0, end = kept.size();
        double before = 0;
        if (end > 32) {
            std::fill(bins.begin(), bins.end(), 0);
            for (const Candidate& one : kept) bins[one.bin()] += one.weight;
            int border = 0;
            while (border + 1 < Candidate::BINS && (bins[border] == 0 || before + bins[border] < wanted))
                before += bins[border++];
            size_t after = 0;
            end = 0;
            for (const Candidate& one : kept) {  // those of earlier bins stay, those of the bin come next
                int bin = one.bin();
                others[after] = one, after += bin == border;
                kept[first] = one, first += bin < border;
            }
            end = first + after;
            std::copy(others.begin(), others.begin() + after, kept.begin() + first);
        }
        std::sort(kept.begin() + first, kept.begin() + end);
        for (size_t i = first; i < end; i++)
            if ((before += kept[i].weight) >= wanted) return i + 1;
        return end;
    }
};

}  // namespace underlay
