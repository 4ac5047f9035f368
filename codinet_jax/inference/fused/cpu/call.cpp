// The kernel for CPUs as a custom call of XLA: arguments, the checks of their shapes, and who computes them.
#include <string>

#include "network.h"
#include "simd/tasks.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("codinet_routed: " + what); }

using Images = ffi::Buffer<ffi::U8, 4>;
using Rows = ffi::Buffer<ffi::F32, 2>;
using Numbers = ffi::Buffer<ffi::F32, 1>;
using Number = ffi::Buffer<ffi::F32, 0>;
using Any = ffi::Buffer<ffi::F32>;

// `noise` is left out by giving it no elements.
ffi::Error forward(ffi::ThreadPool pool, Images images, Rows pixels, Numbers weights, Number threshold, Any noise,
                   ffi::Result<Rows> logits, ffi::Result<Rows> v, ffi::Span<const int64_t> plan) {
  routed::Network net;
  const auto count = [](const auto& buffer) { return static_cast<int64_t>(buffer.element_count()); };
  if (!routed::Reader(plan.begin(), weights.typed_data(), count(weights)).read(net)) {
    return wrong("weights are of another network");
  }
  const auto shape = images.dimensions();
  const int64_t batch = shape[0], n = static_cast<int64_t>(net.blocks.size());
  if (shape[1] != net.image_size || shape[2] != net.image_size || shape[3] != net.image_channels) {
    return wrong("images are of another size");
  }
  if (count(pixels) != 256 * net.image_channels) return wrong("pixels are not [256, C]");
  if (count(noise) != 0 && count(noise) != batch * n * 2) return wrong("noise is not [B, n, 2]");
  if (count(*logits) != batch * net.num_classes || count(*v) != batch * n) return wrong("answers are of another shape");

  const int64_t each = net.image_size * net.image_size * net.image_channels;
  const float *normalised = pixels.typed_data(), *drawn = count(noise) ? noise.typed_data() : nullptr;
  const uint8_t* from = images.typed_data();
  float *answers = logits->typed_data(), *gates = v->typed_data(), limit = *threshold.typed_data();
  simd::in_parallel(pool, batch, [=, &net](int64_t i) {
    routed::Pass pass(net, simd::scratch(routed::Pass::numbers(net)));
    pass.run(from + i * each, normalised, limit, drawn ? drawn + i * n * 2 : nullptr, answers + i * net.num_classes,
             gates + i * n);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_routed, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()
                                  .Arg<Rows>()
                                  .Arg<Numbers>()
                                  .Arg<Number>()
                                  .Arg<Any>()
                                  .Ret<Rows>()
                                  .Ret<Rows>()
                                  .Attr<ffi::Span<const int64_t>>("plan"));
