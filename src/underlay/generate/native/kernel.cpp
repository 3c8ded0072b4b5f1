// The C interface of the native runner: a model is made of numbers and pointers, then asked to run. Nothing here knows
// of Python or torch, so the library is built in seconds and by any compiler. What may fail returns a line that says why,
// or null.
#include "draw.h"
#include "step.h"

using namespace underlay;

namespace {

constexpr int64_t WORTH_WAKING = 1 << 14;  // logits

struct Native {
    Model model;
    Table table;
    std::vector<Drawer> drawers;         // one a thread
    std::string complaint;

    explicit Native(const Shape& shape) : model(shape) {}
};

void fill(Buffer<float>& to, const float* from, size_t count, size_t padded) {
    if (!from) return;
    to.reserve(padded);
    memcpy(to.get(), from, count * sizeof(float));
}

const char* check(Native& native, const std::vector<Work>& works, const int32_t* tokens, const int32_t* blocks,
                  int block_count) {
    const Shape& shape = native.model.shape;
    auto complain = [&](const std::string& line) { return (native.complaint = line).c_str(); };
    int token = 0;
    for (size_t w = 0; w < works.size(); w++) {
        const Work& work = works[w];
        std::string name = "work " + std::to_string(w) + ": ";
        int end = work.start + work.tokens;
        if (work.tokens < 1) return complain(name + "no tokens");
        if (work.start < 0 || end > shape.context)
            return complain(name + "places " + std::to_string(work.start) + ".." + std::to_string(end - 1) +
                            " are outside the context of " + std::to_string(shape.context));
        if (work.wanted < 0 || work.wanted > work.tokens)
            return complain(name + "more logits wanted than tokens given");
        for (int i = 0; i < work.tokens; i++, token++)
            if (tokens[token] < 0 || tokens[token] >= shape.vocabulary)
                return complain(name + "token " + std::to_string(tokens[token]) + " is outside the vocabulary of " +
                                std::to_string(shape.vocabulary));
        for (int i = 0; i < (end + BLOCK - 1) / BLOCK; i++)
            if (blocks[work.blocks + i] < 0 || blocks[work.blocks + i] >= block_count)
                return complain(name + "block " + std::to_string(blocks[work.blocks + i]) + " is not among the " +
                                std::to_string(block_count) + " reserved");
        if (work.adapter >= (int)native.model.adapters.size() ||
            (work.adapter >= 0 && !native.model.adapters[work.adapter]))
            return complain(name + "no such adapter");
    }
    return nullptr;
}

// Do something with each of many rows; all threads take part where it is worth waking them.
template <class Each> const char* each_row(Native& native, int count, int vocabulary, Each each) {
    Pool& pool = native.model.pool;
    std::lock_guard<std::mutex> hold(native.model.turn);
    try {
        native.drawers.resize(pool.size);
        for (Drawer& drawer : native.drawers) drawer.prepare(vocabulary);
        if (count < 2 || count * (int64_t)vocabulary < WORTH_WAKING)
            for (int i = 0; i < count; i++) each(native.drawers[0], i);
        else
            pool.run([&](int number) {
                for (int i; (i = pool.take(1)) < count;) each(native.drawers[number], i);
            });
    } catch (const std::bad_alloc&) {
        return "out of memory";
    }
    return nullptr;
}

}  // namespace

extern "C" {

// Null where there is no memory, or no thread, for it.
Native* underlay_new(const Shape* shape) {
    try {
        return new Native(*shape);
    } catch (const std::exception&) {
        return nullptr;
    }
}
void underlay_free(Native* native) { delete native; }
int64_t underlay_block_bytes(const Native* native) { return (int64_t)native->model.block_bytes; }
int32_t underlay_lanes() { return LANES; }
int32_t underlay_paired() { return PAIRED; }
// How it stands with AMX, as `tile::State` counts.
int32_t underlay_tiles(const Native* native) { return native->model.tiles; }
#if defined(UNDERLAY_EMULATED)
// Models made from now on meet a `tile::Fault`.
void underlay_emulate(int32_t fault) { tile::fault = fault; }
#endif

void underlay_layer(Native* native, int32_t index, const Settings* settings) {
    native->model.layers[index].settings = *settings;
}

// weight: (outputs, inputs) float32, or int8 for the integers; scales: (outputs) for int8, (outputs, inputs / 32) for
// int4; bias: (outputs) or null.
void underlay_matrix(Native* native, int32_t slot, int32_t kind, int32_t outputs, int32_t inputs, const void* weight,
                     const float* scales, const float* bias) {
    Matrix& m = native->model.matrix(slot);
    m.kind = (Kind)kind, m.outputs = outputs, m.inputs = inputs, m.panels = (outputs + PANEL - 1) / PANEL;
    m.tiled = native->model.tiles == tile::USED && (m.kind == BFLOAT16 || m.kind == INT8);
    m.panel_bytes = panel_bytes(m.kind, inputs, m.tiled);
    m.data = native->model.arena.take<char>(m.panels * m.panel_bytes);
    fill(m.bias, bias, outputs, m.panels * PANEL);
    if (scales) {
        size_t groups = m.kind == INT4 ? m.groups() : 1;
        m.scales = native->model.arena.take<float>(m.panels * groups * PANEL);
        for (int j = 0; j < outputs; j++)
            for (size_t group = 0; group < groups; group++)
                m.scales[(j / PANEL * groups + group) * PANEL + j % PANEL] = scales[j * groups + group];
    }
    native->model.pool.run([&](int) {
        for (int panel; (panel = native->model.pool.take(1)) < m.panels;) pack_panel(m, panel, weight);
    });
}

void underlay_norm(Native* native, int32_t slot, int32_t type, int32_t width, float eps, const float* weight,
                   const float* bias) {
    Norm& norm = native->model.norm_at(slot);
    norm.type = (Norm::Type)type, norm.width = width, norm.eps = eps;
    fill(norm.weight, weight, width, round_up(width, PANEL));
    fill(norm.bias, bias, width, round_up(width, PANEL));
}

// cos, sin: (context, head_dim / 2).
void underlay_rotation(Native* native, const float* cos, const float* sin) {
    size_t count = (size_t)native->model.shape.context * (native->model.shape.head_dim / 2);
    native->model.rotations.emplace_back();
    fill(native->model.rotations.back().cos, cos, count, count);
    fill(native->model.rotations.back().sin, sin, count, count);
}

// rows: (vocabulary, width) float32, kept as they are or in bfloat16; positions: (context, width) float32 or null.
void underlay_embedding(Native* native, int32_t kind, const float* rows, const float* positions) {
    Model& model = native->model;
    size_t width = model.shape.width, count = model.shape.vocabulary * width;
    if (kind == FLOAT32) fill(model.embedding, rows, count, count);
    else {
        model.embedding_half.reserve(count);
        model.pool.run([&](int) {
            for (int row; (row = model.pool.take(64)) < model.shape.vocabulary;)
                for (size_t i = row * width; i < std::min(count, (row + 64) * width); i++)
                    model.embedding_half[i] = to_bfloat16(rows[i]);
        });
    }
    fill(model.positions, positions, model.shape.context * width, model.shape.context * width);
}

// One change of adapter `index`; down: (rank, inputs), up: (outputs, rank). rank 0 only makes room for the adapter.
void underlay_adapt(Native* native, int32_t index, int32_t slot, int32_t rank, const float* down, const float* up) {
    Model& model = native->model;
    std::lock_guard<std::mutex> hold(model.turn);
    if ((size_t)index >= model.adapters.size()) model.adapters.resize(index + 1);
    if (!model.adapters[index]) {
        model.adapters[index] = std::make_unique<Adapter>();
        model.adapters[index]->changes.resize(model.shape.depth * SLOTS + 1);
    }
    if (!rank) return;
    const Matrix& m = model.matrix(slot);
    LowRank& low = model.adapters[index]->changes[slot];
    size_t inputs = round_up(m.inputs, PANEL), outputs = (size_t)m.panels * PANEL;
    low.rank = rank;
    low.down.reserve(rank * inputs), low.up.reserve(rank * outputs);
    for (int r = 0; r < rank; r++) {
        memcpy(low.down.get() + r * inputs, down + (size_t)r * m.inputs, m.inputs * sizeof(float));
        for (int j = 0; j < m.outputs; j++) low.up[r * outputs + j] = up[(size_t)j * rank + r];
    }
}

void underlay_forget(Native* native, int32_t index) {
    std::lock_guard<std::mutex> hold(native->model.turn);
    native->model.adapters[index].reset();
}

// One step. tokens: of all works, one after the other; blocks: the blocks of all works; pool: block_count blocks.
// out: (wanted, vocabulary) logits, or, where targets (wanted) are given, (wanted) log-probabilities.
const char* underlay_run(Native* native, int32_t work_count, const Work* given, const int32_t* tokens,
                         const int32_t* blocks, char* pool, int32_t block_count, float* out, const int32_t* targets) {
    std::lock_guard<std::mutex> hold(native->model.turn);
    try {
        std::vector<Work> works(given, given + work_count);
        if (const char* complaint = check(*native, works, tokens, blocks, block_count)) return complaint;
        std::vector<Row> rows;
        std::vector<int> wanted;
        for (int w = 0; w < work_count; w++)
            for (int i = 0; i < works[w].tokens; i++) {
                if (i >= works[w].tokens - works[w].wanted) wanted.push_back((int)rows.size());
                rows.push_back({w, tokens[rows.size()], works[w].start + i});
            }
        Step step(native->model, native->table, works, std::move(rows), blocks, pool, std::move(wanted), out, targets);
        native->model.pool.run([&](int number) { step.thread(number); });
    } catch (const std::bad_alloc&) {
        return "out of memory";
    }
    return nullptr;
}

// The most likely token of each row, -1 where there is none. Threads take those rows whose logits they are likely to have
// computed.
void underlay_best(Native* native, int32_t count, int32_t vocabulary, const float* logits, int32_t* chosen) {
    Pool& pool = native->model.pool;
    std::lock_guard<std::mutex> hold(native->model.turn);
    auto some = [&](int number, int threads) {
        for (int i = count * number / threads; i < count * (number + 1) / threads; i++)
            chosen[i] = most_likely(logits + (size_t)i * vocabulary, vocabulary);
    };
    if (count * (int64_t)vocabulary < WORTH_WAKING) some(0, 1);
    else pool.run([&](int number) { some(number, pool.size); });
}

// Choose a token for each of some rows. logits: (rows, vocabulary); chosen: (count), -1 where a row is no distribution.
const char* underlay_draw(Native* native, int32_t count, int32_t vocabulary, const float* logits, const Choice* choices,
                          int32_t* chosen) {
    return each_row(*native, count, vocabulary, [&](Drawer& drawer, int i) {
        chosen[i] = drawer.draw(logits + (size_t)choices[i].row * vocabulary, choices[i]);
    });
}

// How likely a token of each row is, and which are the `most` likeliest. told: (rows); ids, values: (rows, most).
const char* underlay_tell(Native* native, int32_t count, int32_t vocabulary, const float* logits, const int32_t* tokens,
                          int32_t most, double* told, int32_t* ids, double* values) {
    return each_row(*native, count, vocabulary, [&](Drawer& drawer, int i) {
        size_t at = (size_t)i * most;
        told[i] = drawer.tell(logits + (size_t)i * vocabulary, tokens[i], most, ids + at, values + at);
    });
}

}  // extern "C"
