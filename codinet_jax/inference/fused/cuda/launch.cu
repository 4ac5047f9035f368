// The kernel on a GPU: one block an image.
#include <cuda_runtime.h>

#include "handler.h"

namespace {

namespace ffi = xla::ffi;

// Two blocks a multiprocessor: 128 registers a thread, and shared memory to spare that caches weights.
__global__ void __launch_bounds__(fused::kThreads, 2) network_kernel(const fused::Network net) {
  fused::answer(net, blockIdx.x, threadIdx.x);
}

cudaError_t allow_shared_memory() {
  return cudaFuncSetAttribute(network_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, fused::kSharedBytes);
}

ffi::Error failed(const char* call, cudaError_t error) {
  return ffi::Error::Internal(std::string("codinet_fused: ") + call + ": " + cudaGetErrorString(error));
}

ffi::Error launch(cudaStream_t stream, ffi::Buffer<ffi::U8> images, ffi::Buffer<ffi::U16> pixels,
                  ffi::Buffer<ffi::U32> weights, ffi::Buffer<ffi::F32> floats, ffi::Buffer<ffi::F32> threshold,
                  ffi::Buffer<ffi::F32> noise, ffi::ResultBuffer<ffi::F32> logits, ffi::ResultBuffer<ffi::F32> v,
                  ffi::ResultBuffer<ffi::F32> means, int64_t blocks1, int64_t blocks2, int64_t blocks3, bool routed) {
  const auto run = [stream](const fused::Network& net, int64_t batch) {
    cudaError_t error = allow_shared_memory();
    if (error != cudaSuccess) return failed("cudaFuncSetAttribute", error);
    network_kernel<<<static_cast<unsigned>(batch), fused::kThreads, fused::kSharedBytes, stream>>>(net);
    error = cudaGetLastError();
    return error == cudaSuccess ? ffi::Error::Success() : failed("launch", error);
  };
  return fused::checked(run, images, pixels, weights, floats, threshold, noise, logits, v, means, blocks1, blocks2, blocks3,
                        routed);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_fused, launch,
                              fused::with_arguments(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()));

// For a report: blocks that fit a multiprocessor at once, or minus an error's number.
extern "C" int codinet_fused_blocks_per_multiprocessor() {
  cudaError_t error = allow_shared_memory();
  int blocks = 0;
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, network_kernel, fused::kThreads, fused::kSharedBytes);
  }
  return error == cudaSuccess ? blocks : -static_cast<int>(error);
}
