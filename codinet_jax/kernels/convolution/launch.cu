// The kernels on a GPU. They neither wait nor allocate, so that CUDA graphs can take them in.
#include <cuda_runtime.h>

#include "handler.h"

namespace {

namespace ffi = xla::ffi;

// Blocks a multiprocessor, by registers; the gradient's sums need as many as there are.
template <class Kernel>
constexpr int kResident = 2;
template <int C>
constexpr int kResident<convolution::Gradient<C>> = 1;

template <class Kernel, class Call>
__global__ void __launch_bounds__(convolution::kThreads, kResident<Kernel>) kernel(const Call call) {
  Kernel::run(call, blockIdx.x, threadIdx.x);
}

ffi::Error failed(const char* call, cudaError_t error) {
  return ffi::Error::Internal(std::string("codinet_convolution: ") + call + ": " + cudaGetErrorString(error));
}

struct Run {
  cudaStream_t stream;

  template <class Kernel, class Call>
  ffi::Error operator()(Kernel, const Call& call, int blocks) const {
    cudaError_t error = cudaFuncSetAttribute(kernel<Kernel, Call>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             Kernel::kSharedBytes);
    if (error != cudaSuccess) return failed("cudaFuncSetAttribute", error);
    kernel<Kernel, Call><<<blocks, convolution::kThreads, Kernel::kSharedBytes, stream>>>(call);
    error = cudaGetLastError();
    return error == cudaSuccess ? ffi::Error::Success() : failed("launch", error);
  }
};

ffi::Error forward(cudaStream_t stream, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w,
                   ffi::ResultBuffer<ffi::BF16> y, bool back) {
  return convolution::forward(Run{stream}, x, w, y, back);
}

ffi::Error gradient(cudaStream_t stream, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> dy,
                    ffi::Result<ffi::AnyBuffer> dw, ffi::ResultBuffer<ffi::F32> partial) {
  return convolution::gradient(Run{stream}, x, dy, dw, partial);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_convolution, forward,
                              convolution::with_forward(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()),
                              {ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(codinet_convolution_gradient, gradient,
                              convolution::with_gradient(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()),
                              {ffi::Traits::kCmdBufferCompatible});
