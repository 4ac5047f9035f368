// The kernel on a CPU, one image after another, for tests.
#include "handler.h"

namespace {

namespace ffi = xla::ffi;

int direction = 1;

ffi::Error emulate(ffi::Buffer<ffi::U8> images, ffi::Buffer<ffi::U16> pixels,
                   ffi::Buffer<ffi::U32> weights, ffi::Buffer<ffi::F32> floats, ffi::Buffer<ffi::F32> threshold,
                   ffi::Buffer<ffi::F32> noise, ffi::ResultBuffer<ffi::F32> logits, ffi::ResultBuffer<ffi::F32> v,
                   ffi::ResultBuffer<ffi::F32> means, int64_t blocks1, int64_t blocks2, int64_t blocks3, bool routed) {
  const auto run = [](const fused::Network& net, int64_t batch) {
    for (int image = 0; image < batch; ++image) {
      // NaN, so that whatever is read before it is written shows.
      device::emulation::run(fused::kThreads, fused::kSharedBytes, direction, 0xff,
                            [&net, image](int thread) { fused::answer(net, image, thread); });
    }
    return ffi::Error::Success();
  };
  return fused::checked(run, images, pixels, weights, floats, threshold, noise, logits, v, means, blocks1, blocks2, blocks3,
                        routed);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_fused, emulate, fused::with_arguments(ffi::Ffi::Bind()));

// The order in which warps go as far as they can: 1 or -1.
extern "C" void codinet_fused_go(int towards) { direction = towards; }
