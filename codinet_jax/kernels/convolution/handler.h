// The kernels as custom calls of XLA, but for how their blocks are run: arguments, and the checks of their shapes.
#pragma once

#include <string>

#include "kernel.h"
#include "xla/ffi/api/ffi.h"

namespace convolution {

namespace ffi = xla::ffi;

inline ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("codinet_convolution: " + what); }

// The channels of images [B, S, S, C] that the kernels know; 0 if they do not.
template <class Shape>
int channels_of(const Shape& shape) {
  if (shape.size() != 4 || shape[0] > 1 << 20) return 0;
  for (int channels : {16, 32, 64}) {
    if (shape[3] == channels && shape[1] == 512 / channels && shape[2] == shape[1]) return channels;
  }
  return 0;
}

template <class T>
int64_t count(const T& buffer) {
  return static_cast<int64_t>(buffer.element_count());
}

// Calls run(kernel, arguments, blocks), which returns an error or none, where `kernel` is a value of a kernel's type.
template <class Run>
ffi::Error forward(Run run, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w, ffi::ResultBuffer<ffi::BF16> y,
                   bool back) {
  const auto shape = x.dimensions();
  const int channels = channels_of(shape);
  if (!channels) return wrong("x is not [B, 32, 32, 16], [B, 16, 16, 32] or [B, 8, 8, 64]");
  if (count(w) != kTaps * channels * channels) return wrong("w is not [3, 3, C, C]");
  if (count(*y) != count(x)) return wrong("y is not as x");
  if (shape[0] == 0) return ffi::Error::Success();
  const Forward call{x.typed_data(), w.typed_data(), y->typed_data(), static_cast<int>(shape[0])};
  const auto go = [&](auto kernel) {
    constexpr int kImages = decltype(kernel)::kImages;
    return run(kernel, call, (call.batch + kImages - 1) / kImages);
  };
  if (channels == 16) return back ? go(Convolution<16, true>{}) : go(Convolution<16, false>{});
  if (channels == 32) return back ? go(Convolution<32, true>{}) : go(Convolution<32, false>{});
  return back ? go(Convolution<64, true>{}) : go(Convolution<64, false>{});
}

template <class Run>
ffi::Error gradient(Run run, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> dy, ffi::Result<ffi::AnyBuffer> dw,
                    ffi::ResultBuffer<ffi::F32> partial) {
  const auto shape = x.dimensions();
  const int channels = channels_of(shape);
  if (!channels) return wrong("x is not [B, 32, 32, 16], [B, 16, 16, 32] or [B, 8, 8, 64]");
  if (count(dy) != count(x)) return wrong("dy is not as x");
  if (count(*dw) != kTaps * channels * channels) return wrong("dw is not [3, 3, C, C]");
  const bool rounded = dw->element_type() == ffi::BF16;
  if (!rounded && dw->element_type() != ffi::F32) return wrong("dw is neither bfloat16 nor float32");
  const auto go = [&](auto kernel, auto finish) {
    using G = decltype(kernel);
    const int groups = (static_cast<int>(shape[0]) + G::kImages - 1) / G::kImages;
    if (count(*partial) != static_cast<int64_t>(groups) * G::kAll) return wrong("partial is of another size");
    if (groups) {
      const Backward call{x.typed_data(), dy.typed_data(), partial->typed_data(), static_cast<int>(shape[0])};
      const ffi::Error error = run(kernel, call, groups * G::kSlices * G::kSlices);
      if (error.failure()) return error;
    }
    const Sum call{partial->typed_data(), rounded ? nullptr : static_cast<float*>(dw->untyped_data()),
                   rounded ? static_cast<uint16_t*>(dw->untyped_data()) : nullptr, groups};
    return run(finish, call, decltype(finish)::kBlocks);
  };
  if (channels == 16) return go(Gradient<16>{}, Finish<16>{});
  if (channels == 32) return go(Gradient<32>{}, Finish<32>{});
  return go(Gradient<64>{}, Finish<64>{});
}

// What follows a context, if there is any, in a handler's binding.
template <class Binding>
auto with_forward(Binding binding) {
  return std::move(binding)
      .template Arg<ffi::Buffer<ffi::BF16>>()
      .template Arg<ffi::Buffer<ffi::BF16>>()
      .template Ret<ffi::Buffer<ffi::BF16>>()
      .template Attr<bool>("back");
}

template <class Binding>
auto with_gradient(Binding binding) {
  return std::move(binding)
      .template Arg<ffi::Buffer<ffi::BF16>>()
      .template Arg<ffi::Buffer<ffi::BF16>>()
      .template Ret<ffi::AnyBuffer>()
      .template Ret<ffi::Buffer<ffi::F32>>();
}

}  // namespace convolution
