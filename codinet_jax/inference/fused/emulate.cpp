// The kernel on a CPU, one image after another, for tests.
#include "kernel.h"

// `direction` is the order in which warps go, 1 or -1. Returns the bytes of shared memory that the kernel asks for.
extern "C" int codinet_fused_emulate(const uint8_t* images, const uint16_t* pixels, const uint32_t* weights,
                                     const float* floats, const float* threshold, const float* noise, float* logits,
                                     float* v, float* means, int num_images, int blocks1, int blocks2, int blocks3,
                                     int num_classes, int routed, int direction) {
  const fused::Network net{images, pixels, weights, floats, threshold, noise, logits, v, means,
                           {blocks1, blocks2, blocks3}, num_classes, routed};
  for (int image = 0; image < num_images; ++image) {
    // NaN, so that whatever is read before it is written shows.
    fused::emulation::run(fused::kThreads, fused::kSharedBytes, direction, 0xff,
                          [&net, image](int thread) { fused::answer(net, image, thread); });
  }
  return fused::kSharedBytes;
}
