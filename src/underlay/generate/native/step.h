// One step of a model: many rows go through all layers. All threads run `Step::thread`; work is handed out in units
// whose numbers are their own, so that who does what, and how many do it, changes none.
#pragma once

#include "model.h"
#include "product.h"

namespace underlay {

constexpr int FEW = 3;                   // rows up to which each thread prepares all of them for itself
// Rows for each thread from which on each has its own; fewer where matrices stay in the cache of each core, so that it
// costs nothing that all read all of them.
constexpr int PART = 32, CACHED_PART = 8;
constexpr size_t CACHED = 16 << 20;

// What each thread has for itself, kept from step to step.
struct Desk {
    int number;
    Buffer<float> tile, second_tile;
    Prepared prepared;                   // FEW rows
    AttentionScratch attention;
};

// What all threads share, kept from step to step.
struct Table {
    size_t rows = 0;
    Buffer<float> x, query, key, value, mixed, hidden, change, thin, logits;
    Prepared prepared;
    std::vector<Desk> desks;
};

class Step {
  public:
    Step(Model& model, Table& table, const std::vector<Work>& works, std::vector<Row> given,
         const int32_t* blocks, char* pool, std::vector<int> asked, float* out, const int32_t* targets)
        : model(model), shape(model.shape), t(table), works(works), rows(std::move(given)), count((int)rows.size()),
          blocks(blocks), pool(pool), wanted(std::move(asked)), out(out), targets(targets) {
        width = round_up(shape.width, PANEL);
        wide = round_up(shape.heads * shape.head_dim, PANEL);
        kv_wide = round_up(shape.kv_heads * shape.head_dim, PANEL);
        hidden = round_up(shape.hidden, PANEL);
        deepest = std::max({width, wide, hidden});
        group = shape.heads / shape.kv_heads;
        alone = (int)wanted.size() == count;
        for (size_t w = 0; w < works.size(); w++) {
            adapted |= works[w].adapter >= 0;
            alone &= works[w].tokens == 1;
        }
        lay();
    }

    void thread(int number) {
        Desk& desk = t.desks[number];
        desk.number = number;
        each_at_home(desk, part_rows, 1, [&](int row) { embed(row); });
        model.pool.barrier();
        for (int index = 0; index < shape.depth; index++) block(desk, index);
        head(desk);
        release_tiles();
    }

  private:
    Model& model;
    const Shape& shape;
    Table& t;
    const std::vector<Work>& works;
    std::vector<Row> rows;               // from the last layer on only those whose logits are wanted
    int count;
    const int32_t* blocks;
    char* pool;
    std::vector<int> wanted;             // rows whose logits are wanted, in their order
    float* out;
    const int32_t* targets;              // of wanted rows: out is their log-probability; none: out is logits
    size_t width, wide, kv_wide, hidden, deepest;
    int group;
    bool adapted = false, alone;         // alone: every row is of a sequence of its own, and wanted
    std::vector<std::pair<int, int>> stretches;  // first row and rows, whose places are in the same block
    int parts;                           // of the rows, whose numbers stay with one core where there are many
    std::vector<int> part_rows, part_stretches;  // where each part begins, and the last one ends

    void lay() {
        size_t many = std::max(count, 16);
        if (many > t.rows) {
            many = std::max(many, 2 * t.rows);
            t.x.reserve(many * width), t.change.reserve(many * width), t.hidden.reserve(many * hidden);
            t.query.reserve(many * wide), t.key.reserve(many * kv_wide), t.value.reserve(many * kv_wide);
            t.mixed.reserve(many * wide), t.prepared.reserve(many, deepest);
            t.rows = many;
        }
        if (targets) t.logits.reserve((size_t)BAND * shape.vocabulary);
        if (adapted) thickest_ = thickest(), t.thin.reserve((size_t)count * 3 * thickest_);
        if ((int)t.desks.size() < model.pool.size) t.desks.resize(model.pool.size);
        int furthest = 0;
        for (const Row& row : rows) furthest = std::max(furthest, row.place);
        size_t places = round_up(furthest + 1, 256) + MOST_WIDE * BLOCK;
        for (Desk& desk : t.desks) {
            desk.tile.reserve(BAND * TILE_STRIDE), desk.second_tile.reserve(BAND * TILE_STRIDE);
            desk.prepared.reserve(FEW, deepest);
            AttentionScratch& scratch = desk.attention;
            scratch.query.reserve(MOST_ROWS * model.cache.channels);
            scratch.sums.reserve(MOST_ROWS * model.cache.channels);
            scratch.scores.reserve(MOST_ROWS * places);
            scratch.places = std::max(scratch.places, places);
        }
        stretch();
    }

    void stretch() {
        stretches.clear();
        for (int row = 0; row < count; row++) {
            const Row &here = rows[row], &before = rows[row ? row - 1 : 0];
            bool together = row && here.work == before.work && here.place / BLOCK == before.place / BLOCK;
            if (together) stretches.back().second++;
            else stretches.emplace_back(row, 1);
        }
        const bool tiled = model.tiles == tile::USED;
        const int least = !tiled && model.arena.taken() <= CACHED ? CACHED_PART : PART;
        parts = count >= least * model.pool.size ? model.pool.size : 1;
        part_rows.assign(1, 0), part_stretches.assign(1, 0);
        for (int part = 1, stretch = 0; part <= parts; part++) {
            int end = count * part / parts;
            if (tiled && part < parts) end = end / TILE_ROWS * TILE_ROWS;
            while (stretch < (int)stretches.size() && stretches[stretch].first < end) stretch++;
            part_rows.push_back(end), part_stretches.push_back(stretch);
        }
    }

    // Go on with the rows whose logits are wanted, and no others.
    void narrow() {
        each(1, 1, [&](int) {
            count = (int)wanted.size();
            for (int row = 0; row < count; row++) {
                memmove(t.x.get() + row * width, t.x.get() + wanted[row] * width, width * sizeof(float));
                rows[row] = rows[wanted[row]], wanted[row] = row;
            }
            stretch();
        });
        model.pool.barrier();
    }

    size_t thickest() const {
        int rank = 1;
        for (const auto& adapter : model.adapters)
            if (adapter)
                for (const LowRank& change : adapter->changes) rank = std::max(rank, change.rank);
        return rank;
    }

    template <class Do> void each(int units, int grain, const Do& what) {
        for (int first; (first = model.pool.take(grain)) < units;)
            for (int unit = first; unit < std::min(first + grain, units); unit++) what(unit);
    }

    // Units of all parts, `each` of what a part has; one's own come first, then those that others have not come to. A
    // thread takes `grain` neighbours at a time.
    template <class Do>
    void each_at_home(const Desk& desk, const std::vector<int>& starts, int each, const Do& what, int grain = 1) {
        for (int i = 0; i < parts; i++) {
            int part = (desk.number + i) % parts, first = starts[part] * each, end = starts[part + 1] * each;
            for (int unit; (unit = first + model.pool.take(grain, part)) < end;)
                for (int u = unit; u < std::min(unit + grain, end); u++) what(u);
        }
    }

    void embed(int row) {
        float* x = t.x.get() + row * width;
        size_t token = rows[row].token;
        for (int i = 0; i < shape.width; i++) {
            float v = model.embedding ? model.embedding[token * shape.width + i]
                                      : from_bfloat16(model.embedding_half[token * shape.width + i]);
            if (model.positions) v += model.positions[(size_t)rows[row].place * shape.width + i];
            x[i] = v * shape.embedding_scale;
        }
        for (size_t i = shape.width; i < width; i++) x[i] = 0;
    }

    void block(Desk& desk, int index) {
        const Layer& layer = model.layers[index];
        const Matrix* m = layer.matrices;
        int slot = index * SLOTS;
        Product asking[] = {{&m[QUERY], slot + QUERY, t.query.get(), wide},
                            {&m[KEY], slot + KEY, t.key.get(), kv_wide},
                            {&m[VALUE], slot + VALUE, t.value.get(), kv_wide}};
        const Norm& before = layer.norms[BEFORE_ATTENTION];
        if (index + 1 < shape.depth || (int)wanted.size() == count) {
            multiply_all(desk, t.x.get(), width, before, asking, 3);
            refine(desk, index, true, true);
        } else {
            // Of a row whose logits are not wanted, later tokens want the keys and values, and nobody the rest.
            multiply_all(desk, t.x.get(), width, before, asking + 1, 2);
            refine(desk, index, false, true);
            if (wanted.empty()) return;
            narrow();
            multiply_all(desk, t.x.get(), width, before, asking, 1);
            refine(desk, index, true, false);
        }
        attention(desk, index);
        add(desk, t.mixed.get(), wide, m[OUTPUT], slot + OUTPUT, layer, layer.norms[AFTER_ATTENTION]);
        if (shape.gated) {
            Product up[] = {{&m[GATE], slot + GATE, t.hidden.get(), hidden, Into::GATE, &m[UP]}};
            multiply_all(desk, t.x.get(), width, layer.norms[BEFORE_MLP], up, 1);
        } else {
            Product up[] = {{&m[UP], slot + UP, t.hidden.get(), hidden, Into::ACTIVATE}};
            multiply_all(desk, t.x.get(), width, layer.norms[BEFORE_MLP], up, 1);
        }
        add(desk, t.hidden.get(), hidden, m[DOWN], slot + DOWN, layer, layer.norms[AFTER_MLP]);
    }

    // Add the product of a matrix to the stream, through the norm behind it where there is one.
    void add(Desk& desk, const float* from, size_t stride, const Matrix& matrix, int slot, const Layer& layer,
             const Norm& after) {
        static const Norm none;
        Product product[] = {{&matrix, slot, t.x.get(), width, Into::ADD}};
        if (after) product[0].out = t.change.get(), product[0].into = Into::STORE;
        multiply_all(desk, from, stride, none, product, 1);
        if (!after) return;
        each_at_home(desk, part_rows, 1, [&](int row) {
            float *x = t.x.get() + row * width, *change = t.change.get() + row * width;
            if (!layer.settings.post_norm) normalise(after, change, change);
            for (size_t i = 0; i < width; i += LANES) store(x + i, load(x + i) + load(change + i));
            if (layer.settings.post_norm) normalise(after, x, x);
        });
        model.pool.barrier();
    }

    // All rows as a matrix wants them.
    Rows prepare(Desk& desk, const float* from, size_t stride, const Norm& norm, const Product* products, int number) {
        const Matrix& matrix = *products[0].matrix;
        if (Prepared::needless(matrix, norm) && !adapted) {
            Rows as_they_are;
            as_they_are.x = from, as_they_are.stride = stride;
            return as_they_are;
        }
        const bool few = count <= FEW && !adapted;
        Prepared& prepared = few ? desk.prepared : t.prepared;
        auto one = [&](int row) {
            const float* x = prepared.put(matrix, norm, from + row * stride, stride, row, count);
            if (adapted) thin(x, row, products, number);
        };
        if (few)
            for (int row = 0; row < count; row++) one(row);
        else {
            each_at_home(desk, part_rows, 1, one);
            model.pool.barrier();
        }
        return prepared.rows(matrix, stride, count);
    }

    const LowRank* change(int row, int slot) const {
        int adapter = works[rows[row].work].adapter;
        if (adapter < 0) return nullptr;
        const LowRank& found = model.adapters[adapter]->changes[slot];
        return found.rank ? &found : nullptr;
    }

    float* thin_row(int row, int which) const { return t.thin.get() + ((size_t)row * 3 + which) * thickest_; }

    // The first half of a row's changes by its adapter: down x.
    void thin(const float* x, int row, const Product* products, int number) {
        for (int which = 0; which < 3; which++) {
            if (which >= number && !(products[0].second && which == 1)) break;
            int slot = products[0].second ? products[0].slot + which : products[which].slot;
            const LowRank* low = change(row, slot);
            if (!low) continue;
            size_t inputs = round_up(products[0].matrix->inputs, PANEL);
            for (int r = 0; r < low->rank; r++) {
                F total{};
                const float* down = low->down.get() + r * inputs;
                for (size_t i = 0; i < inputs; i += LANES) total = fma(load(down + i), load(x + i), total);
                thin_row(row, which)[r] = sum(total);
            }
        }
    }

    // The second half: up (down x), added to the tiles of some rows.
    void thicken(Desk& desk, const Product& product, int which, int panel, int panels, int row, int band) {
        for (int r = 0; r < band; r++) {
            float *tile = desk.tile.get() + r * TILE_STRIDE, *second = desk.second_tile.get() + r * TILE_STRIDE;
            thicken(row + r, which, product.slot, *product.matrix, panel, panels, tile);
            if (product.second) thicken(row + r, 1, product.slot + 1, *product.second, panel, panels, second);
        }
    }

    void thicken(int row, int which, int slot, const Matrix& matrix, int panel, int panels, float* tile) {
        const LowRank* low = change(row, slot);
        if (!low) return;
        const size_t outputs = (size_t)matrix.panels * PANEL;
        const float* up = low->up.get() + panel * PANEL;
        for (int i = 0; i < panels * PANEL; i += LANES) {
            F total{};
            for (int r = 0; r < low->rank; r++)
                total = fma(splat(thin_row(row, which)[r]), load(up + r * outputs + i), total);
            store(tile + i, load(tile + i) + total);
        }
    }

    // All rows times some matrices; ends with a barrier.
    void multiply_all(Desk& desk, const float* from, size_t stride, const Norm& norm, const Product* products,
                      int number) {
        multiply_rows_of(desk, prepare(desk, from, stride, norm, products, number), 0, count, products, number);
        model.pool.barrier();
    }

    // Rows first..first + many - 1, which become rows 0..many - 1 of the products.
    void multiply_rows_of(Desk& desk, const Rows& ready, int first, int many, const Product* products, int number) {
        int panels = 0;
        for (int i = 0; i < number; i++) panels += products[i].matrix->panels;
        const bool split = parts > 1 && many == count;
        const int threads = split ? 1 : model.pool.size;  // that share the panels
        const int wide_by = std::max(1, std::min(MOST_WIDE, panels / (2 * threads))), soon = wide_by * threads;
        int units = 0;
        for (int i = 0; i < number; i++) units += (products[i].matrix->panels + wide_by - 1) / wide_by;
        for (int i = 0; i < (split ? parts : 1); i++) {
            const int part = split ? (desk.number + i) % parts : 0;
            const int begin = split ? part_rows[part] : first, end = split ? part_rows[part + 1] : first + many;
            for (int unit; (unit = model.pool.take(1, part)) < units;) {
                int which = 0;
                for (;; which++) {
                    int mine = (products[which].matrix->panels + wide_by - 1) / wide_by;
                    if (unit < mine) break;
                    unit -= mine;
                }
                const Product& product = products[which];
                int panel = unit * wide_by, few = std::min(wide_by, product.matrix->panels - panel);
                for (int row = begin; row < end; row += BAND) {
                    int band = std::min(BAND, end - row);
                    multiply(*product.matrix, panel, few, ready, row, band, desk.tile.get(), TILE_STRIDE, soon);
                    if (product.second)
                        multiply(*product.second, panel, few, ready, row, band, desk.second_tile.get(), TILE_STRIDE,
                                 soon);
                    if (adapted) thicken(desk, product, which, panel, few, row, band);
                    finish(product, (Activation)shape.activation, panel, few, row - first, band, desk.tile.get(),
                           desk.second_tile.get());
                }
            }
        }
    }

    Seen seen(int row, int layer, int kv_head) const {
        const Work& work = works[rows[row].work];
        return {model.cache, pool + layer * model.cache.layer_bytes() + kv_head * model.cache.head_bytes(),
                model.block_bytes, blocks + work.blocks};
    }

    // Finish the queries of all rows, or the keys and values and put these into their blocks.
    void refine(Desk& desk, int index, bool queries, bool keys) {
        const Norm &of_query = model.layers[index].norms[OF_QUERY], &of_key = model.layers[index].norms[OF_KEY];
        if ((queries && over_all(of_query)) || (keys && over_all(of_key))) {
            each_at_home(desk, part_rows, 1, [&](int row) {
                float *query = t.query.get() + row * wide, *key = t.key.get() + row * kv_wide;
                if (queries && over_all(of_query)) normalise(of_query, query, query);
                if (keys && over_all(of_key)) normalise(of_key, key, key);
            });
            model.pool.barrier();
        }
        if (alone) return;               // then attention does it
        each_at_home(desk, part_stretches, shape.kv_heads, [&](int unit) {
            auto [first, number] = stretches[unit / shape.kv_heads];
            if (queries) finish_queries(index, first, number, unit % shape.kv_heads);
            if (keys) finish_keys(index, first, number, unit % shape.kv_heads);
        });
        model.pool.barrier();
    }

    void attention(Desk& desk, int index) {
        // Keys of neighbouring heads lie side by side, which processors foresee.
        const int grain = alone ? std::max(1, (int)stretches.size() * shape.kv_heads / 32) : 1;
        each_at_home(desk, part_stretches, shape.kv_heads, [&](int unit) {
            auto [first, number] = stretches[unit / shape.kv_heads];
            int kv_head = unit % shape.kv_heads;
            if (alone) {
                finish_queries(index, first, number, kv_head);
                finish_keys(index, first, number, kv_head);
            }
            look(desk, index, first, number, kv_head);
        }, grain);
        model.pool.barrier();
    }

    // Those of a stretch that share a key-value head.
    void finish_queries(int index, int first, int number, int kv_head) {
        const Layer& layer = model.layers[index];
        for (int row = first; row < first + number; row++)
            polish(layer, layer.norms[OF_QUERY], t.query.get() + row * wide + kv_head * group * shape.head_dim, group,
                   rows[row].place);
    }

    // Keys and values of a stretch.
    void finish_keys(int index, int first, int number, int kv_head) {
        const Layer& layer = model.layers[index];
        const int size = shape.head_dim;
        float* keys = t.key.get() + first * kv_wide + kv_head * size;
        float* values = t.value.get() + first * kv_wide + kv_head * size;
        for (int i = 0; i < number; i++) {
            polish(layer, layer.norms[OF_KEY], keys + i * kv_wide, 1, rows[first + i].place);
            if (layer.settings.clip > 0) cut(values + i * kv_wide, size, layer.settings.clip);
        }
        keep(seen(first, index, kv_head), rows[first].place, number, keys, values, kv_wide);
    }

    static void cut(float* x, int size, float clip) {
        for (int i = 0; i < size; i++) x[i] = std::min(std::max(x[i], -clip), clip);
    }

    bool over_all(const Norm& norm) const { return norm && norm.width != shape.head_dim; }

    // Clip, normalise and turn some heads of a row.
    void polish(const Layer& layer, const Norm& norm, float* heads, int number, int place) {
        int size = shape.head_dim;
        if (layer.settings.clip > 0) cut(heads, number * size, layer.settings.clip);
        for (int head = 0; head < number; head++) {
            float* x = heads + head * size;
            if (norm && !over_all(norm)) normalise_head(norm, x);
            if (layer.settings.rope >= 0) {
                const Rotation& rotation = model.rotations[layer.settings.rope];
                size_t at = (size_t)place * (size / 2);
                turn(x, size, rotation.cos.get() + at, rotation.sin.get() + at);
            }
        }
    }

    // Queries of `number` rows and one key-value head, a few at a time.
    void look(Desk& desk, int index, int first, int number, int kv_head) {
        const Settings& settings = model.layers[index].settings;
        AttentionScratch& scratch = desk.attention;
        const int size = shape.head_dim, channels = model.cache.channels;
        Seen here = seen(first, index, kv_head);
        int queries = number * group, bunches = (queries + MOST_ROWS - 1) / MOST_ROWS;
        for (int bunch = 0; bunch < bunches; bunch++) {
            int from = queries * bunch / bunches, many = queries * (bunch + 1) / bunches - from;
            Asking asking[MOST_ROWS];
            float totals[MOST_ROWS];
            for (int i = 0; i < many; i++) {
                int row = first + (from + i) / group, head = kv_head * group + (from + i) % group;
                const float* query = t.query.get() + row * wide + head * size;
                float* to = scratch.query.get() + i * channels;
                for (int c = 0; c < size; c++) to[c] = query[c] * settings.scale;
                for (int c = size; c < channels; c++) to[c] = 0;
                int place = rows[row].place;
                asking[i] = {place, settings.window ? std::max(0, place - settings.window + 1) : 0};
            }
            attend(many, here, asking, settings.softcap, scratch, totals);
            for (int i = 0; i < many; i++) {
                int row = first + (from + i) / group, head = kv_head * group + (from + i) % group;
                float *to = t.mixed.get() + row * wide + head * size, inverse = 1 / totals[i];
                for (int c = 0; c < size; c++) to[c] = scratch.sums[i * channels + c] * inverse;
            }
        }
    }

    // By now all rows are wanted.
    void head(Desk& desk) {
        if (wanted.empty()) return;
        int vocabulary = shape.vocabulary, many = count;
        Product product[] = {{&model.head, shape.depth * SLOTS, out, (size_t)vocabulary, Into::STORE, nullptr, true,
                              shape.softcap}};
        if (!targets) return multiply_all(desk, t.x.get(), width, model.norm, product, 1);
        Rows ready = prepare(desk, t.x.get(), width, model.norm, product, 1);
        product[0].out = t.logits.get();
        for (int first = 0; first < many; first += BAND) {
            int band = std::min(BAND, many - first);
            multiply_rows_of(desk, ready, first, band, product, 1);
            model.pool.barrier();
            each(band, 1, [&](int row) {
                const float* logits = t.logits.get() + (size_t)row * vocabulary;
                out[first + row] = log_probability(logits, vocabulary, targets[first + row]);
            });
            model.pool.barrier();
        }
    }

    size_t thickest_ = 0;
};

}  // namespace underlay
