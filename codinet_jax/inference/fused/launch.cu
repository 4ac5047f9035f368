// The kernel as a custom call of XLA: checks shapes, then launches one block an image.
#include <cuda_runtime.h>

#include <string>

#include "kernel.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

// Two blocks a multiprocessor: 128 registers a thread, and shared memory to spare that caches weights.
__global__ void __launch_bounds__(fused::kThreads, 2) network_kernel(const fused::Network net) {
  fused::answer(net, blockIdx.x, threadIdx.x);
}

int64_t num_weights(int64_t blocks1, int64_t blocks2, int64_t blocks3) {
  using fused::kConvWeights;
  return fused::kStemWeights + blocks1 * 2 * kConvWeights<16, 16> + kConvWeights<16, 32> +
         (2 * blocks2 - 1) * kConvWeights<32, 32> + kConvWeights<32, 64> + (2 * blocks3 - 1) * kConvWeights<64, 64>;
}

int64_t num_floats(int64_t blocks1, int64_t blocks2, int64_t blocks3, int64_t num_classes) {
  return fused::kStemFloats + blocks1 * fused::Floats<16, 16>::kAll + fused::Floats<16, 32>::kAll +
         (blocks2 - 1) * fused::Floats<32, 32>::kAll + fused::Floats<32, 64>::kAll +
         (blocks3 - 1) * fused::Floats<64, 64>::kAll + 65 * num_classes;
}

ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("codinet_fused: " + what); }

ffi::Error failed(const char* call, cudaError_t error) {
  return ffi::Error::Internal(std::string("codinet_fused: ") + call + ": " + cudaGetErrorString(error));
}

// `noise` and `means` are left out by giving them no elements.
ffi::Error launch(cudaStream_t stream, ffi::Buffer<ffi::U8> images, ffi::Buffer<ffi::U16> pixels,
                  ffi::Buffer<ffi::U32> weights, ffi::Buffer<ffi::F32> floats, ffi::Buffer<ffi::F32> threshold,
                  ffi::Buffer<ffi::F32> noise, ffi::ResultBuffer<ffi::F32> logits, ffi::ResultBuffer<ffi::F32> v,
                  ffi::ResultBuffer<ffi::F32> means, int64_t blocks1, int64_t blocks2, int64_t blocks3, bool routed) {
  const auto shape = images.dimensions();
  if (shape.size() != 4 || shape[1] != 32 || shape[2] != 32 || shape[3] != 3) return wrong("images are not [B, 32, 32, 3]");
  if (blocks1 < 1 || blocks2 < 1 || blocks3 < 1) return wrong("a stage has no block");
  const auto answers = logits->dimensions();
  const int64_t batch = shape[0], n = blocks1 + blocks2 + blocks3;
  if (answers.size() != 2 || answers[0] != batch) return wrong("logits are not [B, Y]");
  const int64_t num_classes = answers[1];
  const auto count = [](const auto& buffer) { return static_cast<int64_t>(buffer.element_count()); };
  if (count(pixels) != 3 * 256) return wrong("pixels are not [3, 256]");
  if (count(weights) != num_weights(blocks1, blocks2, blocks3)) return wrong("weights are of another network");
  if (count(floats) != num_floats(blocks1, blocks2, blocks3, num_classes)) return wrong("floats are of another network");
  if (count(threshold) != 1) return wrong("threshold is not one number");
  if (count(noise) != 0 && count(noise) != batch * n * 2) return wrong("noise is not [B, n, 2]");
  if (count(*v) != batch * n) return wrong("v is not [B, n]");
  if (count(*means) != 0 && count(*means) != batch * (n + 1) * 64) return wrong("means are not [B, n + 1, 64]");
  if (batch == 0) return ffi::Error::Success();

  const fused::Network net{images.typed_data(),
                           pixels.typed_data(),
                           weights.typed_data(),
                           floats.typed_data(),
                           threshold.typed_data(),
                           count(noise) ? noise.typed_data() : nullptr,
                           logits->typed_data(),
                           v->typed_data(),
                           count(*means) ? means->typed_data() : nullptr,
                           {static_cast<int>(blocks1), static_cast<int>(blocks2), static_cast<int>(blocks3)},
                           static_cast<int>(num_classes),
                           routed};
  cudaError_t error =
      cudaFuncSetAttribute(network_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, fused::kSharedBytes);
  if (error != cudaSuccess) return failed("cudaFuncSetAttribute", error);
  network_kernel<<<static_cast<unsigned>(batch), fused::kThreads, fused::kSharedBytes, stream>>>(net);
  error = cudaGetLastError();
  if (error != cudaSuccess) return failed("launch", error);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_fused, launch,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::PlatformStream<cudaStream_t>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::U16>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("blocks1")
                                  .Attr<int64_t>("blocks2")
                                  .Attr<int64_t>("blocks3")
                                  .Attr<bool>("routed"));

// For a report: blocks that fit a multiprocessor at once, or minus an error's number.
extern "C" int codinet_fused_blocks_per_multiprocessor() {
  cudaError_t error =
      cudaFuncSetAttribute(network_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, fused::kSharedBytes);
  int blocks = 0;
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, network_kernel, fused::kThreads, fused::kSharedBytes);
  }
  return error == cudaSuccess ? blocks : -static_cast<int>(error);
}
