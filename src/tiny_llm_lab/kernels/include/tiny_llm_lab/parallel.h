// Runs a loop on all cores.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace tiny_llm {

/// The number of cores this process may use.
inline int core_count() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) {
    return std::max(1, CPU_COUNT(&cores));
  }
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

/// Threads that wait for loops: one less than there are cores, as whoever has a loop works too.
class ThreadPool {
 public:
  /// The pool of this process. It is never destroyed, since other threads may still use it while
  /// the process ends.
  static ThreadPool& instance() {
    static ThreadPool* pool = new ThreadPool(core_count() - 1);
    return *pool;
  }

  /// Call `body(i)` for every i from 0 to `count - 1`, on several threads, in any order; return
  /// when all calls have returned. `body` must not throw.
  void run(int count, const std::function<void(int)>& body) {
    // One loop at a time: a second one, of another stream, runs on its own thread.
    std::unique_lock<std::mutex> only(one_loop_, std::try_to_lock);
    if (!only.owns_lock() || threads_ == 0 || count <= 1) {
      for (int i = 0; i < count; i++) body(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      count_ = count;
      next_ = 0;
      working_ = threads_;
      loop_++;
    }
    start_.notify_all();
    work(body, count);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return working_ == 0; });
  }

 private:
  explicit ThreadPool(int threads) : threads_(threads) {
    for (int i = 0; i < threads; i++) std::thread([this] { wait_for_loops(); }).detach();
  }

  void wait_for_loops() {
    for (long seen = 0;; seen++) {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return loop_ > seen; });
      const auto& body = *body_;
      int count = count_;
      lock.unlock();
      work(body, count);
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  void work(const std::function<void(int)>& body, int count) {
    for (int i; (i = next_.fetch_add(1)) < count;) body(i);
  }

  const int threads_;
  std::mutex one_loop_, mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int)>* body_ = nullptr;
  int count_ = 0, working_ = 0;
  long loop_ = 0;
  std::atomic<int> next_ = 0;
};

/// Call `body(i)` for every i from 0 to `count - 1` on all cores; see `ThreadPool::run`.
inline void parallel_for(int count, const std::function<void(int)>& body) {
  ThreadPool::instance().run(count, body);
}

}  // namespace tiny_llm
