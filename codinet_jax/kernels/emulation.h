// A thread block on one core of a CPU, for tests: every thread is a fiber, and whatever a warp or the block does together
// is done by the last that comes to it. Out of bounds, lanes that part ways and deadlocks end the process with a word.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define KERNEL_DEVICE inline
#define KERNEL_UNROLL
#define KERNEL_UNROLL_BY_EIGHT

namespace device {

namespace emulation {

constexpr int kLanes = 32;
constexpr size_t kStack = 512 << 10;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

struct Copy {
  uint32_t at;
  const void* from;
  int group;
};

struct Fiber {
  std::vector<Copy> copies;  // on their way
  int groups = 0;            // ended
  jmp_buf where;
  ucontext_t start;
  char* stack = nullptr;
  bool done = false;
};

struct Warp {
  int arrived = 0, at_barrier = 0;
  unsigned generation = 0;
  const char* doing = nullptr;
  void* operands[kLanes];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  std::function<void(int)> body;
  ucontext_t main_start;
  jmp_buf main;
  int now = 0, direction = 1, at_barrier = 0, num_done = 0;
  unsigned generation = 0;
};

// Stacks outlive their block: to map and unmap them would take longer than what runs on them.
inline char* stack_of(size_t thread) {
  static thread_local std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() <= thread) stacks.emplace_back(new char[kStack]);
  return stacks[thread].get();
}

inline Block*& block() {
  static thread_local Block* running = nullptr;
  return running;
}

// Fibers start through ucontext and then jump: a jump makes no system call, and there are millions.
__attribute__((noinline)) inline void switch_to(int next) {
  Block& b = *block();
  const int from = b.now;
  if (next == from) fail("a thread waits for itself");
  if (_setjmp(b.fibers[from].where) == 0) {
    b.now = next;
    _longjmp(b.fibers[next].where, 1);
  }
}

inline int next_lane(int thread) { return thread / kLanes * kLanes + (thread + 1) % kLanes; }

inline int next_warp(int thread) {
  const int warps = static_cast<int>(block()->warps.size());
  return (thread / kLanes + block()->direction + warps) % warps * kLanes;
}

// Brings the lanes of a warp together; `all` sees every lane's operand, and runs once.
template <class Operand, class All>
void together(const char* doing, Operand& mine, All all) {
  Block& b = *block();
  Warp& warp = b.warps[b.now / kLanes];
  if (warp.arrived && warp.doing != doing) fail("lanes of a warp do different things together");
  warp.doing = doing;
  warp.operands[b.now % kLanes] = &mine;
  const unsigned generation = warp.generation;
  if (++warp.arrived < kLanes) {
    while (warp.generation == generation) switch_to(next_lane(b.now));
    return;
  }
  Operand* operands[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) operands[lane] = static_cast<Operand*>(warp.operands[lane]);
  all(operands);
  warp.arrived = 0;
  ++warp.generation;
}

inline void enter() {
  Block& b = *block();
  Fiber& self = b.fibers[b.now];
  if (_setjmp(self.where) == 0) setcontext(&b.main_start);
  b.body(block()->now);
  Block& after = *block();
  after.fibers[after.now].done = true;
  if (++after.num_done == static_cast<int>(after.fibers.size())) _longjmp(after.main, 1);
  for (size_t next = 0; next < after.fibers.size(); ++next) {
    if (!after.fibers[next].done) {
      after.now = static_cast<int>(next);
      _longjmp(after.fibers[next].where, 1);
    }
  }
  fail("no thread is left to run");
}

// Runs `body(thread)` on every thread of a block. Warps go as far as they can, first to last or, with direction -1, last
// to first; `fill` is what shared memory holds at first.
inline void run(int threads, size_t shared_bytes, int direction, unsigned char fill, std::function<void(int)> body) {
  Block b;
  b.fibers.resize(threads);
  b.warps.resize(threads / kLanes);
  b.shared.assign(shared_bytes, fill);
  b.body = std::move(body);
  b.direction = direction;
  block() = &b;
  for (int thread = 0; thread < threads; ++thread) {
    Fiber& fiber = b.fibers[thread];
    fiber.stack = stack_of(thread);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    b.now = thread;
    swapcontext(&b.main_start, &fiber.start);
  }
  b.now = 0;
  if (_setjmp(b.main) == 0) _longjmp(b.fibers[0].where, 1);
  block() = nullptr;
}

inline unsigned char* shared_at(uint32_t at, size_t bytes) {
  std::vector<unsigned char>& shared = block()->shared;
  if (at % bytes) fail("shared memory is read or written off its alignment");
  if (at + bytes > shared.size()) fail("shared memory is read or written past its end");
  return shared.data() + at;
}

inline uint32_t bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline uint32_t bfloat16(float x) {
  const uint32_t u = bits(x);
  return std::isnan(x) ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

}  // namespace emulation

template <class T>
T load_shared(uint32_t at) {
  T value;
  std::memcpy(&value, emulation::shared_at(at, sizeof(T)), sizeof(T));
  return value;
}

template <class T>
void store_shared(uint32_t at, T value) {
  std::memcpy(emulation::shared_at(at, sizeof(T)), &value, sizeof(T));
}

inline void barrier() {
  using namespace emulation;
  Block& b = *block();
  const unsigned generation = b.generation;
  Warp& warp = b.warps[b.now / kLanes];
  if (++b.at_barrier == static_cast<int>(b.fibers.size())) {
    for (Warp& each : b.warps) each.at_barrier = 0;
    b.at_barrier = 0;
    ++b.generation;
    return;
  }
  const bool whole_warp = ++warp.at_barrier == kLanes;
  const int self = b.now;
  bool first = true;
  while (b.generation == generation) {
    switch_to((whole_warp && first) || warp.at_barrier == kLanes ? next_warp(self) : next_lane(self));
    first = false;
  }
}

inline float as_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

template <class T>
T shuffle_xor(T value, int mask) {
  struct Operand {
    T in, out;
    int mask;
  } mine{value, 0, mask};
  emulation::together("shuffle", mine, [](Operand** all) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) all[lane]->out = all[lane ^ all[lane]->mask]->in;
  });
  return mine.out;
}

// Nothing arrives before it is waited for, so that a wait left out shows.
inline void copy_async(uint32_t at, const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16) emulation::fail("global memory is copied off its alignment");
  emulation::shared_at(at, 16);
  emulation::Fiber& self = emulation::block()->fibers[emulation::block()->now];
  self.copies.push_back({at, from, self.groups});
}

inline void end_group() { ++emulation::block()->fibers[emulation::block()->now].groups; }

template <int PENDING>
void wait_groups() {
  emulation::Fiber& self = emulation::block()->fibers[emulation::block()->now];
  std::vector<emulation::Copy> left;
  for (const emulation::Copy& copy : self.copies) {
    if (copy.group < self.groups - PENDING) {
      std::memcpy(emulation::shared_at(copy.at, 16), copy.from, 16);
    } else {
      left.push_back(copy);
    }
  }
  self.copies.swap(left);
}

inline void load_matrices(uint32_t (&r)[4], uint32_t at) {
  struct Operand {
    uint32_t at;
    uint32_t* r;
  } mine{at, r};
  emulation::together("load_matrices", mine, [](Operand** all) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const unsigned char* row = emulation::shared_at(all[8 * matrix + lane / 4]->at, 16);
        std::memcpy(&all[lane]->r[matrix], row + lane % 4 * 4, 4);
      }
    }
  });
}

inline void load_transposed(uint32_t (&r)[4], uint32_t at) {
  struct Operand {
    uint32_t at;
    uint32_t* r;
  } mine{at, r};
  emulation::together("load_transposed", mine, [](Operand** all) {
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t pair[2];
        for (int i = 0; i < 2; ++i) {
          const unsigned char* row = emulation::shared_at(all[8 * matrix + lane % 4 * 2 + i]->at, 16);
          std::memcpy(&pair[i], row + lane / 4 * 2, 2);
        }
        all[lane]->r[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
    }
  });
}

// Fragments as the PTX manual draws them for mma.m16n8k16 with bfloat16.
inline void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  struct Operand {
    uint32_t a[4], b[2];
    float* d;
  } mine{{a0, a1, a2, a3}, {b0, b1}, d};
  emulation::together("multiply", mine, [](Operand** all) {
    float a[16][16], b[8][16];
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      const int group = lane / 4, column = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const int row = group + i % 2 * 8, k = column + i / 2 * 8;
        a[row][k] = as_float(all[lane]->a[i] << 16);
        a[row][k + 1] = as_float(all[lane]->a[i] & 0xffff0000u);
      }
      for (int i = 0; i < 2; ++i) {
        b[group][column + 8 * i] = as_float(all[lane]->b[i] << 16);
        b[group][column + 8 * i + 1] = as_float(all[lane]->b[i] & 0xffff0000u);
      }
    }
    for (int lane = 0; lane < emulation::kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += a[row][k] * b[column][k];
        all[lane]->d[i] += sum;
      }
    }
  });
}

inline void load_weights(uint32_t (&r)[2], const uint32_t* from) { std::memcpy(r, from, sizeof r); }

inline void load_weights(uint32_t (&r)[4], const uint32_t* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16) emulation::fail("weights are read off their alignment");
  std::memcpy(r, from, sizeof r);
}

template <int N>
void load_floats(float (&r)[N], const float* from) {
  if (reinterpret_cast<uintptr_t>(from) % (4 * N)) emulation::fail("floats are read off their alignment");
  std::memcpy(r, from, sizeof r);
}

inline float relu(float x) { return x > 0 || x != x ? x : 0; }

inline uint32_t relu_pack(float lower, float upper) {
  return emulation::bfloat16(relu(lower)) | emulation::bfloat16(relu(upper)) << 16;
}

inline uint32_t pack(float lower, float upper) { return emulation::bfloat16(lower) | emulation::bfloat16(upper) << 16; }

template <class T>
void store_global(void* to, T value) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(T)) emulation::fail("global memory is written off its alignment");
  std::memcpy(to, &value, sizeof(T));
}

inline float exponential(float x) { return std::exp(x); }

}  // namespace device
