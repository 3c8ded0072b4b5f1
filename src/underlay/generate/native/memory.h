// Memory that vectors and caches like: aligned, zeroed, in large pages where the system has them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "vector.h"

namespace underlay {

template <class T> class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t count) { reserve(count); }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() { free(data_); }

    // At least `count` items; where there were fewer, all are zero.
    void reserve(size_t count) {
        if (count <= size_) return;
        free(data_);
        data_ = nullptr, size_ = 0;
        size_t alignment = count * sizeof(T) >= LARGE ? LARGE : 64, bytes = round_up(count * sizeof(T), alignment);
        void* memory = aligned_alloc(alignment, bytes);
        if (!memory) throw std::bad_alloc();
#if defined(__linux__)
        if (alignment == LARGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        memset(memory, 0, bytes);
        data_ = static_cast<T*>(memory), size_ = count;
    }
    T* get() const { return data_; }
    explicit operator bool() const { return data_ != nullptr; }
    T& operator[](size_t index) const { return data_[index]; }

  private:
    static constexpr size_t LARGE = 1 << 21;
    void swap(Buffer& other) { std::swap(data_, other.data_), std::swap(size_, other.size_); }
    T* data_ = nullptr;
    size_t size_ = 0;
};

// Memory for what stays: piece after piece in large pages, since processors know the places of few pages at a time, and
// matrices that are read at every step lie in many. What is not taken takes no memory.
class Arena {
  public:
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena() {
        for (Chunk& chunk : chunks) chunk.free();
    }

    // Zeroed.
    template <class T> T* take(size_t count) {
        size_t bytes = round_up(count * sizeof(T), 64);
        if (chunks.empty() || bytes > chunks.back().bytes - used) {
            chunks.reserve(chunks.size() + 1);
            chunks.emplace_back(std::max(CHUNK, round_up(bytes, PAGE)));
            used = 0;
        }
        char* start = chunks.back().start + used;
        used += bytes, all += bytes;
        return reinterpret_cast<T*>(start);
    }

    size_t taken() const { return all; }

  private:
    static constexpr size_t PAGE = 1 << 21, CHUNK = 32 * PAGE;

    struct Chunk {
        char *memory, *start;
        size_t bytes;

        explicit Chunk(size_t bytes) : bytes(bytes) {
#if defined(__linux__)
            void* got = mmap(nullptr, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (got == MAP_FAILED) throw std::bad_alloc();
            memory = static_cast<char*>(got);
            start = memory + (PAGE - reinterpret_cast<uintptr_t>(memory) % PAGE) % PAGE;
            madvise(start, bytes, MADV_HUGEPAGE);
#else
            memory = start = static_cast<char*>(aligned_alloc(64, bytes));
            if (!memory) throw std::bad_alloc();
            memset(memory, 0, bytes);
#endif
        }
        void free() {
#if defined(__linux__)
            munmap(memory, bytes + PAGE);
#else
            ::free(memory);
#endif
        }
    };
    std::vector<Chunk> chunks;
    size_t used = 0, all = 0;            // bytes of the last chunk, and of all
};

}  // namespace underlay
