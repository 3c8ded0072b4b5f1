// Choosing a token by chance, and saying how likely tokens are. A row of logits becomes weights e^((l - most) / T), of
// which few count: those within some distance of the best are collected, then more, until all that top-k, top-p,
// typical and min-p can keep is among them. Nothing is sorted as a whole: to know which tokens make up a mass, halves
// are told apart until the border is found. A row is always worked on by one thread, in the same order.
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

constexpr double LOWEST = -708;          // e^x of less is no ordinary double any more
constexpr double SERIES[] = {            // Taylor's, of e^x; what it leaves out is below 1e-17 for |x| < log(2) / 2
    1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0,
    1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 1 / 2.0, 1, 1};

// e^x for x <= 0, within 2 units in the last place; 0 below LOWEST.
INLINE D exponential(D given) {
    D x = given < splat_double(LOWEST) ? splat_double(LOWEST) : given;
    D turns = fma(x, splat_double(1.4426950408889634), splat_double(6755399441055744.0));  // rounds to an integer
    L whole = (L)turns << 52;
    turns = turns - 6755399441055744.0;
    D r = fma(turns, splat_double(-6.93147180369123816490e-01), x);
    r = fma(turns, splat_double(-1.90821492927058770002e-10), r);
    D p{};
    UNROLL for (double term : SERIES) p = fma(p, r, splat_double(term));
    D result = (D)((L)p + whole);
    return given < splat_double(LOWEST) ? D{} : result;
}

// How one token is chosen: numbers as draw.py writes them. top_k 0: all.
struct Choice {
    double row, number, temperature, top_k, top_p, typical, min_p;
};

struct Candidate {
    double key, weight;                  // the lowest key comes first, then the highest weight, then the lowest id
    int32_t id;

    bool operator<(const Candidate& other) const {
        if (key != other.key) return key < other.key;
        return weight != other.weight ? weight > other.weight : id < other.id;
    }
};

class Drawer {
  public:
    // Have room for a row, so that nothing is allocated in the middle of the work.
    void reserve(int vocabulary) {
        highest.reserve(vocabulary / STRETCH + 1), masses.reserve(vocabulary / STRETCH + 1), kept.reserve(vocabulary);
    }

    // The token of one row; -1 where a logit is NaN or the best is infinite.
    int draw(const float* row, int vocabulary, const Choice& choice) {
        if (!survey(row, vocabulary, choice.temperature)) return -1;
        const bool ranked = choice.top_k > 0 && choice.top_k < vocabulary;
        const bool typical = choice.typical < 1;
        const bool narrow = ranked || choice.top_p < 1;
        if (!narrow && !typical && choice.min_p == 0) return among_all(choice.number);
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
            for (Candidate& one : kept) one.key = -one.weight;
        }
        if (choice.min_p > 0) {
            double highest = 0;
            for (const Candidate& one : kept) highest = std::max(highest, one.weight);
            auto unlikely = [&](const Candidate& one) { return one.weight < choice.min_p * highest; };
            kept.erase(std::remove_if(kept.begin(), kept.end(), unlikely), kept.end());
        }
        return kept[reach(std::nextafter(choice.number * total(), INFINITY)) - 1].id;
    }

    // The log-probability of one token, and the `count` most likely ones with theirs. Infinity and NaN come through.
    double tell(const float* row, int vocabulary, int token, int count, int32_t* ids, double* values) {
        if (!survey(row, vocabulary, 1)) {
            std::fill(ids, ids + count, 0), std::fill(values, values + count, NAN);
            return NAN;
        }
        weigh();
        const double rest = std::log(mass);
        if (count) {
            collect({0, 0, 1, (double)count, 1, 1, 0}, true, false);
            keep_best(count);
            std::sort(kept.begin(), kept.end());
            for (int i = 0; i < count; i++) {
                bool known = i < (int)kept.size();  // the others are impossible
                ids[i] = known ? kept[i].id : 0, values[i] = known ? distance(kept[i].id) - rest : -INFINITY;
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
    std::vector<double> masses;
    std::vector<Candidate> kept;
    double mass, moment;                 // sums over the row: of the weights w, and of w log(w)

    const float* stretch(int index) const { return (index + 1) * STRETCH <= size ? logits + index * STRETCH : tail; }
    float distance(int id) const { return logits[id] - most; }
    double log_weight(int id) const { return std::max(distance(id) * sharpness, 2 * LOWEST); }

    // Look at a row for the first time. False where it is no distribution.
    bool survey(const float* row, int vocabulary, double temperature) {
        logits = row, size = vocabulary, stretches = (size + STRETCH - 1) / STRETCH;
        // The smallest temperatures have no finite inverse; that it is multiplied with 0 must give 0 all the same.
        sharpness = std::min(1 / temperature, 1e300);
        std::fill(tail, tail + STRETCH, -INFINITY);
        if (size % STRETCH) std::copy(row + size / STRETCH * STRETCH, row + size, tail);
        highest.resize(stretches);
        I broken{};
        most = -INFINITY;
        for (int s = 0; s < stretches; s++) {
            const float* from = stretch(s);
            F best = load(from);
            for (int i = 0; i < STRETCH; i += LANES) {
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
        return x < splat_double(2 * LOWEST) ? splat_double(2 * LOWEST) : x;
    }

    // The sums over the whole row, and over each stretch.
    void weigh() {
        masses.resize(stretches);
        mass = moment = 0;
        for (int s = 0; s < stretches; s++) {
            const float* from = stretch(s);
            D sums[2] = {}, moments[2] = {};
            UNROLL for (int i = 0; i < STRETCH / DOUBLES; i++) {
                D x = log_weights(from + i * DOUBLES), w = exponential(x);
                sums[i % 2] = sums[i % 2] + w;
                moments[i % 2] = fma(w, x, moments[i % 2]);
            }
            masses[s] = sum(sums[0] + sums[1]);
            mass += masses[s], moment += sum(moments[0] + moments[1]);
        }
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
        int s = 0;
        while (s + 1 < stretches && before + masses[s] <= target) before += masses[s++];
        int last = -1;
        for (int i = 0; i < STRETCH; i += DOUBLES) {
            D w = exponential(log_weights(stretch(s) + i));
            for (int lane = 0; lane < DOUBLES; lane++) {
                if (w[lane] > 0) last = s * STRETCH + i + lane;
                if ((before += w[lane]) > target) return last;
            }
        }
        return last;                     // the sum of a stretch is rounded otherwise than the sums along it
    }

    // Collect all that top-k, top-p and min-p can keep.
    void collect(const Choice& choice, bool ranked, bool typical) {
        for (double reach : {-7.0, -12.0, -20.0, LOWEST}) {
            const float limit = (float)std::max(reach * std::max(choice.temperature, 1e-300), -(double)FLT_MAX);
            kept.clear();
            for (int s = 0; s < stretches; s++) {
                if (!(highest[s] - most >= limit)) continue;
                const float* from = stretch(s);
                for (int i = 0; i < STRETCH; i++)
                    if (from[i] - most >= limit) kept.push_back({0, 0, s * STRETCH + i});
            }
            weigh_kept();
            for (Candidate& one : kept) one.key = -one.weight;
            // Rounding must not decide: a little more than enough is collected.
            bool all_likely = 2 * std::exp(reach) <= choice.min_p && !typical && !(ranked && choice.top_p < 1);
            if (all_likely || (ranked && kept.size() >= choice.top_k)) return;
            if (!ranked && choice.top_p < 1 && total() >= (choice.top_p + 1e-9) * mass) return;
        }
    }

    // Collect the tokens whose surprise is nearest to what is expected, up to the share of the whole mass.
    void collect_around(double centre, double share) {
        for (double reach : {1.0, 2.0, 4.0, -2 * LOWEST}) {
            kept.clear();
            for (int id = 0; id < size; id++)
                if (std::abs(log_weight(id) - centre) <= reach) kept.push_back({0, 0, id});
            weigh_kept();
            if (total() >= (share + 1e-9) * mass) break;
        }
        for (Candidate& one : kept) one.key = std::abs(log_weight(one.id) - centre);
    }

    // Surprise is log(mass) - log(w), and entropy its mean: how far they are apart does not depend on the mass.
    void key_by_distance() {
        double whole = total(), sum = 0;
        for (const Candidate& one : kept) sum += one.weight * log_weight(one.id);
        for (Candidate& one : kept) one.key = std::abs(log_weight(one.id) - sum / whole);
    }

    void weigh_kept() {
        for (size_t first = 0; first < kept.size(); first += DOUBLES) {
            D x{};
            size_t count = std::min<size_t>(DOUBLES, kept.size() - first);
            for (size_t i = 0; i < count; i++) x[i] = log_weight(kept[first + i].id);
            D w = exponential(x);
            for (size_t i = 0; i < count; i++) kept[first + i].weight = w[i];
        }
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
        auto first = kept.begin(), end = kept.end();
        double before = 0;
        while (end - first > 16) {
            auto middle = first + (end - first) / 2;
            std::nth_element(first, middle, end);
            double half = 0;
            for (auto one = first; one != middle; one++) half += one->weight;
            if (before + half >= wanted) end = middle;
            else before += half, first = middle;
        }
        std::sort(first, end);
        for (auto one = first; one != end; one++)
            if ((before += one->weight) >= wanted) return one - kept.begin() + 1;
        return end - kept.begin();
    }
};

}  // namespace underlay
