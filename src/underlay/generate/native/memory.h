// Memory that vectors and caches like: aligned, zeroed, in large pages where the system has them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

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

}  // namespace underlay
