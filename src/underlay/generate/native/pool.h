// Threads that go through a step together. Within a step they wait by spinning, politely; between steps they sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#endif
#include <sched.h>

namespace underlay {

inline void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    explicit Pool(int threads) : size(threads), next(new Counter[threads]) {
        for (int index = 1; index < threads; index++) others.emplace_back([this, index] { serve(index); });
    }
    ~Pool() {
        ending = true;
        wake();
        for (auto& thread : others) thread.join();
    }
    Pool(const Pool&) = delete;

    const int size;

    // All threads, the caller as number 0, do `work(number)`; returns when all have.
    void run(const std::function<void(int)>& work) {
        job = &work;
        begin();
        wake();
        work(0);
        barrier();
    }

    // All threads wait for all; what was written before can be read after. Begins a new round of `take`.
    void barrier() {
        if (size == 1) return begin();
        int mine = generation.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);
            begin();
            generation.store(mine + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; generation.load(std::memory_order_acquire) == mine; spins++)
            if (spins < PATIENCE) breathe();
            else sched_yield();
    }

    // The first of `count` units that nobody has taken since the last barrier; there are as many lists of units as
    // threads.
    int take(int count, int list = 0) { return next[list].taken.fetch_add(count, std::memory_order_relaxed); }

  private:
    static constexpr int PATIENCE = 2000;
    static constexpr auto AWAKE = std::chrono::microseconds(300);  // longer than it takes to choose tokens

    struct alignas(64) Counter {
        std::atomic<int> taken{0};
    };

    void begin() {
        for (int list = 0; list < size; list++) next[list].taken.store(0, std::memory_order_relaxed);
    }

    void wake() {
        calls.fetch_add(1);
        if (asleep.load()) {
            step_aside();
            std::lock_guard<std::mutex> hold(mutex);
            bell.notify_all();
        }
    }

    // Have threads that sleep wake up elsewhere than here. Systems on virtual machines may take cores that sleep for
    // cores that are taken away, and wake all on the caller's, where they wait for each other until somebody notices:
    // milliseconds.
    void step_aside() {
#if defined(__linux__)
        int here = sched_getcpu();
        cpu_set_t allowed;
        if (here < 0 || here == left_alone || sched_getaffinity(0, sizeof allowed, &allowed)) return;
        if (CPU_COUNT(&allowed) < size) return;
        CPU_CLR(here, &allowed);
        for (auto& thread : others) pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
        left_alone = here;
#endif
    }

    void serve(int index) {
        for (int seen = 0;; seen++) {
            auto until = std::chrono::steady_clock::now() + AWAKE;
            while (calls.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) breathe();
            if (calls.load() == seen) {
                std::unique_lock<std::mutex> hold(mutex);
                asleep.fetch_add(1);
                bell.wait(hold, [&] { return calls.load() != seen; });
                asleep.fetch_sub(1);
            }
            if (ending) return;
            (*job)(index);
            barrier();
        }
    }

    std::vector<std::thread> others;
    int left_alone = -1;                 // the core that these keep away from
    const std::function<void(int)>* job = nullptr;
    std::mutex mutex;
    std::condition_variable bell;
    std::atomic<bool> ending{false};
    alignas(64) std::atomic<int> calls{0};
    std::atomic<int> asleep{0};
    alignas(64) std::atomic<int> arrived{0};
    alignas(64) std::atomic<int> generation{0};
    std::unique_ptr<Counter[]> next;
};

}  // namespace underlay
