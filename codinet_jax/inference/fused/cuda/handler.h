// The kernel as a custom call of XLA, but for how its blocks are run: arguments, and the checks of their shapes.
#pragma once

#include <string>

#include "kernel.h"
#include "xla/ffi/api/ffi.h"

namespace fused {

namespace ffi = xla::ffi;

inline int64_t num_weights(int64_t blocks1, int64_t blocks2, int64_t blocks3) {
  return kStemWeights + blocks1 * 2 * kConvWeights<16, 16> + kConvWeights<16, 32> +
         (2 * blocks2 - 1) * kConvWeights<32, 32> + kConvWeights<32, 64> + (2 * blocks3 - 1) * kConvWeights<64, 64>;
}

inline int64_t num_floats(int64_t blocks1, int64_t blocks2, int64_t blocks3, int64_t num_classes) {
  return kStemFloats + blocks1 * Floats<16, 16>::kAll + Floats<16, 32>::kAll +
         (blocks2 - 1) * Floats<32, 32>::kAll + Floats<32, 64>::kAll +
         (blocks3 - 1) * Floats<64, 64>::kAll + 65 * num_classes;
}

inline ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("codinet_fused: " + what); }

// Calls run(network, B), which returns an error or none. `noise` and `means` are left out by giving them no elements.
template <class Run>
ffi::Error checked(Run run, ffi::Buffer<ffi::U8> images, ffi::Buffer<ffi::U16> pixels,
                   ffi::Buffer<ffi::U32> weights, ffi::Buffer<ffi::F32> floats, ffi::Buffer<ffi::F32> threshold,
                   ffi::Buffer<ffi::F32> noise, ffi::ResultBuffer<ffi::F32> logits, ffi::ResultBuffer<ffi::F32> v,
                   ffi::ResultBuffer<ffi::F32> means, int64_t blocks1, int64_t blocks2, int64_t blocks3, bool routed) {
  const auto shape = images.dimensions();
  if (shape.size() != 4 || shape[1] != 32 || shape[2] != 32 || shape[3] != 3) {
    return wrong("images are not [B, 32, 32, 3]");
  }
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

  const Network net{images.typed_data(),
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
  return run(net, batch);
}

// What follows a context, if there is any, in a handler's binding.
template <class Binding>
auto with_arguments(Binding binding) {
  return std::move(binding)
      .template Arg<ffi::Buffer<ffi::U8>>()
      .template Arg<ffi::Buffer<ffi::U16>>()
      .template Arg<ffi::Buffer<ffi::U32>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Ret<ffi::Buffer<ffi::F32>>()
      .template Ret<ffi::Buffer<ffi::F32>>()
      .template Ret<ffi::Buffer<ffi::F32>>()
      .template Attr<int64_t>("blocks1")
      .template Attr<int64_t>("blocks2")
      .template Attr<int64_t>("blocks3")
      .template Attr<bool>("routed");
}

}  // namespace fused
