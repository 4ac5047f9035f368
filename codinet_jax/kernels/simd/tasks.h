// Threads of XLA that share the work of a custom call, and memory of their own.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace simd {

// Work of several tasks, which whoever comes takes one by one.
class Shared {
 public:
  Shared(int64_t tasks, std::function<void(int64_t)> run) : tasks_(tasks), run_(std::move(run)) {}

  void take() {
    for (int64_t task; (task = next_++) < tasks_;) {
      run_(task);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (++done_ == tasks_) all_done_.notify_all();
    }
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == tasks_; });
  }

 private:
  const int64_t tasks_;
  const std::function<void(int64_t)> run_;
  std::atomic<int64_t> next_{0};
  int64_t done_ = 0;
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Runs the tasks here and on idle threads of the pool. It waits for none that has not begun one: all may be in calls like
// this one.
inline void in_parallel(xla::ffi::ThreadPool& pool, int64_t tasks, std::function<void(int64_t)> run) {
  const auto shared = std::make_shared<Shared>(tasks, std::move(run));
  for (int64_t helper = 1; helper < std::min(tasks, pool.num_threads()); ++helper) {
    pool.Schedule([shared] { shared->take(); });
  }
  shared->take();
  shared->wait();
}

// A thread's own memory, from the beginning of a cache line on.
inline float* scratch(int64_t size) {
  constexpr std::size_t kLine = 64, kExtra = kLine / sizeof(float);
  thread_local std::vector<float> numbers;
  if (numbers.size() < size + kExtra) numbers.resize(size + kExtra);
  void* begin = numbers.data();
  std::size_t bytes = numbers.size() * sizeof(float);
  return static_cast<float*>(std::align(kLine, size * sizeof(float), begin, bytes));
}

}  // namespace simd
