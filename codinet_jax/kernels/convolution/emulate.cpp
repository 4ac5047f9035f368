// The kernels on a CPU, one block after another, for tests.
#include "handler.h"

namespace {

namespace ffi = xla::ffi;

int direction = 1;

struct Run {
  template <class Kernel, class Call>
  ffi::Error operator()(Kernel, const Call& call, int blocks) const {
    for (int block = 0; block < blocks; ++block) {
      // NaN, so that whatever is read before it is written shows.
      device::emulation::run(convolution::kThreads, Kernel::kSharedBytes, direction, 0xff,
                             [&call, block](int thread) { Kernel::run(call, block, thread); });
    }
    return ffi::Error::Success();
  }
};

ffi::Error forward(ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w, ffi::ResultBuffer<ffi::BF16> y, bool back) {
  return convolution::forward(Run{}, x, w, y, back);
}

ffi::Error gradient(ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> dy, ffi::Result<ffi::AnyBuffer> dw,
                    ffi::ResultBuffer<ffi::F32> partial) {
  return convolution::gradient(Run{}, x, dy, dw, partial);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_convolution, forward, convolution::with_forward(ffi::Ffi::Bind()));

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_convolution_gradient, gradient, convolution::with_gradient(ffi::Ffi::Bind()));

// The order in which warps go as far as they can: 1 or -1.
extern "C" void codinet_convolution_go(int towards) { direction = towards; }
