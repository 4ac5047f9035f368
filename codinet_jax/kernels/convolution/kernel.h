// 3x3 convolutions of a CIFAR ResNet in training: 16, 32 or 64 channels on 32x32, 16x16 or 8x8 pixels, bfloat16, summed
// in float32. Forward and the input's gradient are one kernel, the kernel's gradient is another and a sum after it.
//
// Images lie in shared memory as planes of 8 channels, [plane][y][x][8]: eight neighbouring pixels are 128 bytes in a
// row, which is what a matrix load reads without a bank conflict, and a tap is an offset. Planes are apart by what lets
// eight copies of 16 bytes, which come in the order of global memory, fall on different banks too.
#pragma once

#include "primitives.h"

namespace convolution {

using namespace device;

constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kLanes;
constexpr int kTaps = 9;

template <int CHANNELS>
constexpr int kSizeOf = 512 / CHANNELS;

struct Thread {
  int index, warp, lane, group, column;  // group and column: the lane's row and pair of columns in a product

  KERNEL_DEVICE explicit Thread(int t)
      : index(t), warp(t / kLanes), lane(t % kLanes), group(t % kLanes / 4), column(t % 4) {}
};

// The least number of units of 16 bytes a plane, so that copies to PLANES planes in turn share no bank.
constexpr int apart(int units, int planes) {
  const int step = 8 / planes;
  while (units % step != 0 || units / step % 2 == 0) ++units;
  return units;
}

// An image in shared memory; coordinates of `at` count the border, if there is one.
template <int SIZE, int CHANNELS, int BORDER>
struct Image {
  static constexpr int kPlanes = CHANNELS / 8;
  static constexpr int kPitch = SIZE + 2 * BORDER;
  static constexpr int kPlane = 16 * apart(kPitch * kPitch, kPlanes);
  static constexpr int kBytes = kPlanes * kPlane;

  KERNEL_DEVICE static uint32_t at(int plane, int y, int x) {
    return static_cast<uint32_t>(plane * kPlane + (y * kPitch + x) * 16);
  }

  // Copies rows [begin, end) of CHANNELS of an image's `stride` channels.
  KERNEL_DEVICE static void copy(uint32_t to, const uint16_t* from, int stride, int begin, int end, const Thread& t) {
    for (int i = begin * SIZE * kPlanes + t.index; i < end * SIZE * kPlanes; i += kThreads) {
      const int pixel = i / kPlanes, plane = i % kPlanes;
      copy_async(to + at(plane, pixel / SIZE + BORDER, pixel % SIZE + BORDER), from + pixel * stride + plane * 8);
    }
  }

  KERNEL_DEVICE static void clear_border(uint32_t to, const Thread& t) {
    constexpr int kSide = SIZE + 1;
    for (int i = t.index; i < 4 * kSide * kPlanes; i += kThreads) {
      const int side = i / kPlanes / kSide, k = i / kPlanes % kSide;
      const int y = side == 0 ? 0 : side == 1 ? k : side == 2 ? kSide : kSide - k;
      const int x = side == 0 ? k : side == 1 ? kSide : side == 2 ? kSide - k : 0;
      store_shared(to + at(i % kPlanes, y, x), Quad{0, 0, 0, 0});
    }
  }
};

// `pending` is known when this is compiled, once loops are laid out.
KERNEL_DEVICE void wait_for_all_but(int pending) {
  if (pending == 0) wait_groups<0>();
  if (pending == 1) wait_groups<1>();
  if (pending == 2) wait_groups<2>();
  if (pending == 3) wait_groups<3>();
}

// Of four lanes side by side and their four numbers each, lane c gets the c-th of all.
KERNEL_DEVICE Quad transpose(uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3, int column) {
  const bool odd = column & 1, high = column & 2;
  const uint32_t first = shuffle_xor(odd ? v0 : v1, 1), second = shuffle_xor(odd ? v2 : v3, 1);
  const uint32_t a0 = odd ? first : v0, a1 = odd ? v1 : first;    // of column & 1
  const uint32_t b0 = odd ? second : v2, b1 = odd ? v3 : second;  // of (column & 1) + 2
  const uint32_t c0 = shuffle_xor(high ? a0 : b0, 2), c1 = shuffle_xor(high ? a1 : b1, 2);
  return high ? Quad{c0, c1, b0, b1} : Quad{a0, a1, c0, c1};
}

struct Forward {
  const uint16_t* x;  // [B, S, S, C]; of a gradient, the output's
  const uint16_t* w;  // [3, 3, C, C]
  uint16_t* y;        // as x
  int batch;
};

// y = conv(x, w), or with BACK the gradient of that by its input: turned by half a turn, output channels summed over.
//
// A warp computes 16 channels of 64 pixels: four products' rows, each 16 pixels of a row, or two rows of 8 where an
// image is no wider. A row is loaded once for each dx and serves all dy.
template <int C, bool BACK>
struct Convolution {
  static constexpr int kSize = kSizeOf<C>;
  static constexpr bool kPairs = kSize == 8;
  static constexpr int kChunks = C / 16;                 // of channels that are summed over, 16 at a time
  static constexpr int kImages = kPairs ? 2 : 1;         // of a block
  static constexpr int kRounds = C == 16 ? 2 : 1;        // of each warp, in halves of the image
  static constexpr int kGroups = kChunks > kRounds ? kChunks : kRounds;
  static constexpr int kParts = C / 16;                  // of 16 output channels
  using Source = Image<kSize, C, 1>;
  static constexpr int kPlanes = Source::kPlanes;
  static constexpr int kWeightPlane = 16 * apart(C, kPlanes);  // [tap][plane of outputs][input][8 outputs]
  static constexpr int kWeights = kImages * Source::kBytes;
  static constexpr int kSharedBytes = kWeights + kTaps * kPlanes * kWeightPlane;
  static_assert(kWarps * kRounds * 64 == kParts * kImages * kSize * kSize);

  KERNEL_DEVICE static uint32_t weight_at(int tap, int plane, int input) {
    return static_cast<uint32_t>(kWeights + (tap * kPlanes + plane) * kWeightPlane + input * 16);
  }

  // The weights of one chunk of what is summed over.
  KERNEL_DEVICE static void copy_weights(const uint16_t* w, int chunk, const Thread& t) {
    constexpr int kUseInputs = BACK ? C : 16, kUsePlanes = BACK ? 2 : kPlanes;
    for (int i = t.index; i < kTaps * kUseInputs * kUsePlanes; i += kThreads) {
      const int plane = i % kUsePlanes + (BACK ? 2 * chunk : 0);
      const int input = i / kUsePlanes % kUseInputs + (BACK ? 0 : 16 * chunk);
      const int tap = i / (kUsePlanes * kUseInputs);
      copy_async(weight_at(tap, plane, input), w + (tap * C + input) * C + plane * 8);
    }
  }

  // Two tiles of 8 channels of the result by the 16 of a chunk.
  KERNEL_DEVICE static void load_weights(uint32_t (&b)[4], int part, int chunk, int dy, int dx, const Thread& t) {
    const int tap = BACK ? 8 - 3 * dy - dx : 3 * dy + dx;
    if (BACK) {
      load_matrices(b, weight_at(tap, 2 * chunk + t.lane / 8 % 2, 16 * part + t.lane / 16 * 8 + t.lane % 8));
    } else {
      load_transposed(b, weight_at(tap, 2 * part + t.lane / 16, 16 * chunk + t.lane % 16));
    }
  }

  KERNEL_DEVICE static void multiply_tiles(float (&sums)[2][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           const uint32_t (&b)[4]) {
    multiply(sums[0], a0, a1, a2, a3, b[0], b[1]);
    multiply(sums[1], a0, a1, a2, a3, b[2], b[3]);
  }

  KERNEL_DEVICE static void run(const Forward& call, int block, int thread) {
    const Thread t(thread);
    const int first = block * kImages, part = t.warp % kParts, place = t.warp / kParts;
    constexpr int kValues = kSize * kSize * C;
    const uint16_t* x = call.x + static_cast<int64_t>(first) * kValues;

    if (kRounds == 2) {
      copy_weights(call.w, 0, t);
      Source::copy(0, x, C, 0, kSize / 2 + 1, t);
      end_group();
      Source::copy(0, x, C, kSize / 2 + 1, kSize, t);
      end_group();
    } else {
      KERNEL_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        if (chunk == 0) {
          KERNEL_UNROLL
          for (int i = 0; i < kImages; ++i) {
            if (first + i < call.batch) Source::copy(i * Source::kBytes, x + i * kValues, C, 0, kSize, t);
          }
        }
        copy_weights(call.w, chunk, t);
        end_group();
      }
    }
    KERNEL_UNROLL
    for (int i = 0; i < kImages; ++i) Source::clear_border(i * Source::kBytes, t);

    // Of warps: where they are in the image, or in which.
    const int image = kPairs ? place : 0;
    const uint32_t source = image * Source::kBytes;
    constexpr int kAcross = kPairs ? 1 : kSize / 16;  // of 16 pixels
    const int left = place % kAcross * 16;
    uint32_t b[3][3][4];
    KERNEL_UNROLL
    for (int round = 0; round < kRounds; ++round) {
      const int top = kPairs ? 0 : round * (kSize / kRounds) + place / kAcross * 4;
      float sums[4][2][4] = {};
      KERNEL_UNROLL
      for (int chunk = 0; chunk < kChunks; ++chunk) {
        wait_for_all_but(kGroups - 1 - round - chunk);
        barrier();
        KERNEL_UNROLL
        for (int dx = 0; dx < 3; ++dx) {
          if (round == 0) {
            KERNEL_UNROLL
            for (int dy = 0; dy < 3; ++dy) load_weights(b[dx][dy], part, chunk, dy, dx, t);
          }
          if (kPairs) {
            // The first row is border, and so is the last: zero, and not loaded.
            uint32_t rows[10][2];
            rows[0][0] = rows[0][1] = rows[9][0] = rows[9][1] = 0;
            KERNEL_UNROLL
            for (int i = 1; i < 9; i += 2) {
              uint32_t a[4];
              load_matrices(a, source + Source::at(2 * chunk + t.lane / 8 % 2, i + t.lane / 16, t.lane % 8 + dx));
              rows[i][0] = a[0], rows[i][1] = a[1], rows[i + 1][0] = a[2], rows[i + 1][1] = a[3];
            }
            KERNEL_UNROLL
            for (int dy = 0; dy < 3; ++dy) {
              KERNEL_UNROLL
              for (int pair = 0; pair < 4; ++pair) {
                const uint32_t(&upper)[2] = rows[2 * pair + dy], (&lower)[2] = rows[2 * pair + 1 + dy];
                multiply_tiles(sums[pair], upper[0], lower[0], upper[1], lower[1], b[dx][dy]);
              }
            }
          } else {
            KERNEL_UNROLL
            for (int i = 0; i < 6; ++i) {
              uint32_t a[4];
              load_matrices(a, Source::at(2 * chunk + t.lane / 16, top + i, left + t.lane % 16 + dx));
              KERNEL_UNROLL
              for (int dy = 0; dy < 3; ++dy) {
                const int r = i - dy;
                if (r >= 0 && r < 4) multiply_tiles(sums[r], a[0], a[1], a[2], a[3], b[dx][dy]);
              }
            }
          }
        }
      }
      // Eight channels of one pixel a lane.
      KERNEL_UNROLL
      for (int r = 0; r < 4; ++r) {
        const float(&s)[2][4] = sums[r];
        const Quad eight = transpose(pack(s[0][0], s[0][1]), pack(s[1][0], s[1][1]), pack(s[0][2], s[0][3]),
                                     pack(s[1][2], s[1][3]), t.column);
        const int half = t.column / 2, channel = 16 * part + t.column % 2 * 8;
        const int y = kPairs ? 2 * r + half : top + r, column = left + t.group + (kPairs ? 0 : 8 * half);
        if (first + image < call.batch) {
          store_global(call.y + static_cast<int64_t>(first + image) * kValues + (y * kSize + column) * C + channel,
                       eight);
        }
      }
    }
  }
};

struct Backward {
  const uint16_t* x;   // [B, S, S, C]
  const uint16_t* dy;  // as x
  float* partial;      // [groups of images][9 C C], in the order in which lanes hold it
  int batch;
};

// The kernel's gradient: input channels by output channels, tap by tap, summed over pixels, 16 in a product. A block
// does so for some images and up to 32 by 32 channels, a warp for 16 by 16, all taps and an eighth or a half of an image
// or more; a row of the input serves three of the gradient.
template <int C>
struct Gradient {
  static constexpr int kSize = kSizeOf<C>;
  static constexpr bool kPairs = kSize == 8;
  static constexpr int kChannels = C < 32 ? C : 32;  // of a block, both ways
  static constexpr int kSlices = C / kChannels;
  static constexpr int kSquares = (kChannels / 16) * (kChannels / 16);
  static constexpr int kShares = kWarps / kSquares;  // warps that sum the same numbers over other pixels
  static constexpr int kImages = kPairs ? 8 : 2;
  static constexpr int kPasses = kPairs ? 4 : 2;
  static constexpr int kAPass = kImages / kPasses;
  using X = Image<kSize, kChannels, 1>;
  using DY = Image<kSize, kChannels, 0>;
  static constexpr int kGradients = kImages * X::kBytes;
  static constexpr int kTiles = kGradients + kImages * DY::kBytes;
  static constexpr int kSums = kTaps * 2 * 4;         // of a lane
  static constexpr int kSquare = kSums * kLanes;
  static constexpr int kNumbers = kSquares * kSquare;  // of a block
  static constexpr int kAll = kTaps * C * C;
  static constexpr int kSharedBytes = kTiles > kWarps * kSquare * 4 ? kTiles : kWarps * kSquare * 4;
  static_assert(kNumbers * kSlices * kSlices == kAll);
  static_assert(kPairs ? kAPass % kShares == 0 : kShares * 128 == kSize * kSize && kAPass == 1);

  KERNEL_DEVICE static void multiply_tiles(float (&sums)[2][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           const uint32_t (&b)[4]) {
    multiply(sums[0], a0, a1, a2, a3, b[0], b[1]);
    multiply(sums[1], a0, a1, a2, a3, b[2], b[3]);
  }

  KERNEL_DEVICE static void run(const Backward& call, int block, int thread) {
    const Thread t(thread);
    const int slice = block % (kSlices * kSlices), group = block / (kSlices * kSlices), first = group * kImages;
    const int inputs = slice / kSlices * kChannels, outputs = slice % kSlices * kChannels;
    constexpr int kValues = kSize * kSize * C;
    KERNEL_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      KERNEL_UNROLL
      for (int i = pass * kAPass; i < (pass + 1) * kAPass; ++i) {
        if (first + i < call.batch) {
          const int64_t at = static_cast<int64_t>(first + i) * kValues;
          X::copy(i * X::kBytes, call.x + at + inputs, C, 0, kSize, t);
          DY::copy(kGradients + i * DY::kBytes, call.dy + at + outputs, C, 0, kSize, t);
        }
      }
      end_group();
    }
    KERNEL_UNROLL
    for (int i = 0; i < kImages; ++i) X::clear_border(i * X::kBytes, t);

    const int square = t.warp % kSquares, share = t.warp / kSquares;
    const int in = square / (kChannels / 16) * 2, out = square % (kChannels / 16) * 2;  // planes
    float sums[3][3][2][4] = {};
    KERNEL_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      wait_for_all_but(kPasses - 1 - pass);
      barrier();
      if constexpr (kPairs) {
        KERNEL_UNROLL
        for (int i = 0; i < kAPass / kShares; ++i) {
          const int image = pass * kAPass + share * (kAPass / kShares) + i;
          if (first + image < call.batch) add_pairs(sums, image, in, out, t);
        }
      } else if (first + pass < call.batch) {
        add_rows(sums, pass, share, in, out, t);
      }
    }

    // Shares are added in one order, whatever warp came first.
    barrier();
    KERNEL_UNROLL
    for (int i = 0; i < kSums; ++i) {
      store_shared((t.warp * kSquare + i * kLanes + t.lane) * 4, sums[i / 24][i / 8 % 3][i / 4 % 2][i % 4]);
    }
    barrier();
    float* to = call.partial + static_cast<int64_t>(group) * kAll + slice * kNumbers;
    for (int i = t.index; i < kNumbers; i += kThreads) {
      float sum = 0;
      KERNEL_UNROLL
      for (int k = 0; k < kShares; ++k) sum += load_shared<float>((k * kNumbers + i) * 4);
      to[i] = sum;
    }
  }

  // Eight rows of 16 pixels.
  KERNEL_DEVICE static void add_rows(float (&sums)[3][3][2][4], int image, int share, int in, int out,
                                     const Thread& t) {
    const int left = share % (kSize / 16) * 16, top = share / (kSize / 16) * 8;
    const uint32_t x = image * X::kBytes, dy = kGradients + image * DY::kBytes;
    uint32_t b[3][4];
    KERNEL_UNROLL
    for (int i = 0; i < 10; ++i) {
      if (i < 8) load_transposed(b[i % 3], dy + DY::at(out + t.lane / 16, top + i, left + t.lane % 16));
      KERNEL_UNROLL
      for (int dx = 0; dx < 3; ++dx) {
        uint32_t a[4];
        load_transposed(a, x + X::at(in + t.lane / 8 % 2, top + i, left + t.lane / 16 * 8 + t.lane % 8 + dx));
        KERNEL_UNROLL
        for (int tap = 0; tap < 3; ++tap) {
          const int r = i - tap;
          if (r >= 0 && r < 8) multiply_tiles(sums[tap][dx], a[0], a[1], a[2], a[3], b[r % 3]);
        }
      }
    }
  }

  // A whole image of 8x8 pixels, two rows in a product.
  KERNEL_DEVICE static void add_pairs(float (&sums)[3][3][2][4], int image, int in, int out, const Thread& t) {
    const uint32_t x = image * X::kBytes, dy = kGradients + image * DY::kBytes;
    uint32_t b[4][4];
    KERNEL_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      load_transposed(b[pair], dy + DY::at(out + t.lane / 16, 2 * pair + t.lane / 8 % 2, t.lane % 8));
    }
    KERNEL_UNROLL
    for (int dx = 0; dx < 3; ++dx) {
      uint32_t rows[10][2];
      rows[0][0] = rows[0][1] = rows[9][0] = rows[9][1] = 0;
      KERNEL_UNROLL
      for (int i = 1; i < 9; i += 2) {
        uint32_t a[4];
        load_transposed(a, x + X::at(in + t.lane / 8 % 2, i + t.lane / 16, t.lane % 8 + dx));
        rows[i][0] = a[0], rows[i][1] = a[1], rows[i + 1][0] = a[2], rows[i + 1][1] = a[3];
      }
      KERNEL_UNROLL
      for (int tap = 0; tap < 3; ++tap) {
        KERNEL_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
          const uint32_t(&upper)[2] = rows[2 * pair + tap], (&lower)[2] = rows[2 * pair + 1 + tap];
          multiply_tiles(sums[tap][dx], upper[0], upper[1], lower[0], lower[1], b[pair]);
        }
      }
    }
  }
};

struct Sum {
  const float* partial;  // `Backward`'s
  float* dw;             // [3, 3, C, C], or null
  uint16_t* rounded;     // the same in bfloat16, or null
  int groups;
};

// The sum over groups of images, 32 numbers a block; each warp has every eighth group, in order.
template <int C>
struct Finish {
  using G = Gradient<C>;
  static constexpr int kSharedBytes = kThreads * 4;
  static constexpr int kBlocks = G::kAll / kLanes;

  KERNEL_DEVICE static void run(const Sum& call, int block, int thread) {
    const Thread t(thread);
    const int i = block * kLanes + t.lane;
    float sum = 0;
    KERNEL_UNROLL_BY_EIGHT
    for (int group = t.warp; group < call.groups; group += kWarps) {
      sum += call.partial[static_cast<int64_t>(group) * G::kAll + i];
    }
    store_shared(t.index * 4, sum);
    barrier();
    if (t.warp) return;
    float all = 0;
    KERNEL_UNROLL
    for (int warp = 0; warp < kWarps; ++warp) all += load_shared<float>((warp * kLanes + t.lane) * 4);
    const int slice = i / G::kNumbers, square = i / G::kSquare % G::kSquares, j = i % G::kSquare / kLanes;
    constexpr int kSide = G::kChannels / 16;
    const int tap = j / 8, tile = j / 4 % 2, e = j % 4;
    const int input = slice / G::kSlices * G::kChannels + square / kSide * 16 + t.group + e / 2 * 8;
    const int output = slice % G::kSlices * G::kChannels + square % kSide * 16 + tile * 8 + t.column * 2 + e % 2;
    const int to = (tap * C + input) * C + output;
    if (call.dw) call.dw[to] = all;
    if (call.rounded) call.rounded[to] = static_cast<uint16_t>(pack(all, 0.0f));
  }
};

}  // namespace convolution
