// What the kernel asks of a GPU: warp-wide matrix loads and products, shuffles, a barrier, shared memory by byte offset.
//
// Compiled by nvcc they are the instructions of sm_80 and later. By any other compiler they come from emulation.h, which
// gives them the same meaning, lane by lane, so that the kernel's own source can be tested without a GPU.
#pragma once

#include <cstdint>
#include <cstring>

namespace device {

struct alignas(8) Pair {
  float x, y;
};

struct alignas(16) Quad {
  uint32_t x, y, z, w;
};

struct alignas(16) FloatQuad {
  float x, y, z, w;
};

}  // namespace device

#ifdef __CUDACC__

#define KERNEL_DEVICE __device__ __forceinline__
#define KERNEL_UNROLL _Pragma("unroll")
#define KERNEL_UNROLL_BY_EIGHT _Pragma("unroll 8")

namespace device {

extern __shared__ __align__(128) unsigned char shared_bytes[];

template <class T>
KERNEL_DEVICE T load_shared(uint32_t at) {
  return *reinterpret_cast<const T*>(shared_bytes + at);
}

template <class T>
KERNEL_DEVICE void store_shared(uint32_t at, T value) {
  *reinterpret_cast<T*>(shared_bytes + at) = value;
}

KERNEL_DEVICE void barrier() { __syncthreads(); }

KERNEL_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

KERNEL_DEVICE uint32_t shuffle_xor(uint32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

KERNEL_DEVICE uint32_t shared_address(uint32_t at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared_bytes)) + at;
}

// 16 bytes of global memory on their way to shared memory, where they are after a wait for their group and a barrier.
KERNEL_DEVICE void copy_async(uint32_t at, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(at)), "l"(from) : "memory");
}

KERNEL_DEVICE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until no more than this thread's last `pending` groups are on their way.
template <int PENDING>
KERNEL_DEVICE void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The four 8x8 matrices whose rows of 16 bytes lie where lanes 0-7, 8-15, 16-23 and 24-31 say.
KERNEL_DEVICE void load_matrices(uint32_t (&r)[4], uint32_t at) {
  // Volatile, and so never moved across a barrier.
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at)));
}

// The same, each matrix transposed.
KERNEL_DEVICE void load_transposed(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at)));
}

// d += a b, for a of 16 rows by 16 and b of 16 by 8 columns.
KERNEL_DEVICE void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                           uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Volatile, so that a load placed before a barrier is on its way while the block waits there.
KERNEL_DEVICE void load_weights(uint32_t (&r)[2], const uint32_t* from) {
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "l"(from));
}

KERNEL_DEVICE void load_weights(uint32_t (&r)[4], const uint32_t* from) {
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "l"(from));
}

KERNEL_DEVICE void load_floats(float (&r)[1], const float* from) {
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(r[0]) : "l"(from));
}

KERNEL_DEVICE void load_floats(float (&r)[2], const float* from) {
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(r[0]), "=f"(r[1]) : "l"(from));
}

KERNEL_DEVICE void load_floats(float (&r)[4], const float* from) {
  asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(r[0]), "=f"(r[1]), "=f"(r[2]), "=f"(r[3])
               : "l"(from));
}

// max(., 0) of both as bfloat16, the first in the lower half.
KERNEL_DEVICE uint32_t relu_pack(float lower, float upper) {
  uint32_t packed;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(upper), "f"(lower));
  return packed;
}

// Both as bfloat16, the first in the lower half.
KERNEL_DEVICE uint32_t pack(float lower, float upper) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(upper), "f"(lower));
  return packed;
}

template <class T>
KERNEL_DEVICE void store_global(void* to, T value) {
  *static_cast<T*>(to) = value;
}

KERNEL_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }

KERNEL_DEVICE float relu(float x) { return fmaxf(x, 0.0f); }

KERNEL_DEVICE float exponential(float x) { return expf(x); }

}  // namespace device

#else
#include "emulation.h"
#endif

namespace device {

KERNEL_DEVICE float lower(uint32_t packed) { return as_float(packed << 16); }

KERNEL_DEVICE float upper(uint32_t packed) { return as_float(packed & 0xffff0000u); }

}  // namespace device
