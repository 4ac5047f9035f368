// The kernels as custom calls of XLA on a CPU: arguments, the checks of their shapes, and who computes them.
#include <string>

#include "kernel.h"
#include "tasks.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using simd::in_parallel, simd::scratch, simd::Shape;

constexpr int64_t kImages = 8;  // whose gradients are added up by one thread: so a sum is the same with any number of them

ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("codinet_simd: " + what); }

using Images = ffi::Buffer<ffi::F32, 4>;
using Rows = ffi::Buffer<ffi::F32, 2>;

template <class X, class Y, class W>
ffi::Error read(Shape& s, const X& x, const W& w, const Y& y, int64_t stride, int64_t top, int64_t left) {
  s = {x[0], x[1], x[2], x[3], w[0], w[1], stride, top, left, y[1], y[2], y[3]};
  if (y[0] != x[0] || w[2] != x[3] || w[3] != y[3]) return wrong("images and kernel do not fit");
  if (s.out % simd::kChannels) return wrong("output channels are no multiple of 16");
  if (stride < 1 || top < 0 || left < 0 || s.padded_width() < left || s.padded_height() < top) return wrong("no such padding");
  return ffi::Error::Success();
}

ffi::Error convolution(ffi::ThreadPool pool, Images x, Images w, ffi::Result<Images> y, int64_t stride, int64_t top,
                       int64_t left) {
  Shape s;
  if (ffi::Error error = read(s, x.dimensions(), w.dimensions(), y->dimensions(), stride, top, left); error.failure()) {
    return error;
  }
  const int64_t read_each = s.height * s.width * s.in, written_each = s.out_height * s.out_width * s.out;
  const float *from = x.typed_data(), *weights = w.typed_data();
  float* to = y->typed_data();
  in_parallel(pool, s.batch, [=](int64_t image) {
    simd::convolve(s, from + image * read_each, weights, to + image * written_each, scratch(s.padded_size()));
  });
  return ffi::Error::Success();
}

ffi::Error gradient(ffi::ThreadPool pool, Images x, Images dy, ffi::Result<Images> dw,
                    ffi::Result<Rows> partial, int64_t stride, int64_t top, int64_t left) {
  Shape s;
  if (ffi::Error error = read(s, x.dimensions(), dw->dimensions(), dy.dimensions(), stride, top, left); error.failure()) {
    return error;
  }
  const int64_t groups = (s.batch + kImages - 1) / kImages, size = s.kernel_size();
  if (partial->dimensions()[0] != groups || partial->dimensions()[1] != size) return wrong("partial is of another size");
  const int64_t x_each = s.height * s.width * s.in, dy_each = s.out_height * s.out_width * s.out;
  const float *from = x.typed_data(), *d = dy.typed_data();
  float* sums = partial->typed_data();
  in_parallel(pool, groups, [=](int64_t group) {
    float* sum = sums + group * size;
    std::fill(sum, sum + size, 0.0f);
    for (int64_t image = group * kImages; image < std::min(s.batch, (group + 1) * kImages); ++image) {
      simd::add_gradient(s, from + image * x_each, d + image * dy_each, sum, scratch(s.padded_size()));
    }
  });
  float* all = dw->typed_data();
  std::fill(all, all + size, 0.0f);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t i = 0; i < size; ++i) all[i] += sums[group * size + i];
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_simd_convolution, convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()
                                  .Arg<Images>()
                                  .Ret<Images>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_simd_gradient, gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Images>()
                                  .Arg<Images>()
                                  .Ret<Images>()
                                  .Ret<Rows>()
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left"));
