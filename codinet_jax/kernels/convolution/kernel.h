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

  // Copies rows [begin, end) of CHANNELS of an image's `stride` channels. All threads together copy whole rows, so that
  // from one copy to the next a thread goes on by the same distance.
  KERNEL_DEVICE static void copy(uint32_t to, const uint16_t* from, int stride, int begin, int end, const Thread& t) {
    constexpr int kRow = SIZE * kPlanes, kRows = kThreads / kRow;
    static_assert(kThreads % kRow == 0);
    const int row = t.index / kRow, x = t.index % kRow / kPlanes, plane = t.index % kPlanes;
    to += at(plane, begin + row + BORDER, x + BORDER);
    from += ((begin + row) * SIZE + x) * stride + plane * 8;
    KERNEL_UNROLL
    for (int i = 0; i < (end - begin + kRows - 1) / kRows; ++i) {
      if ((i + 1) * kRows <= end - begin || begin + row + i * kRows < end) {
        copy_async(to + i * kRows * kPitch * 16, from + i * kRows * SIZE * stride);
      }
    }
  }

  // Of `count` images, one after another.
  KERNEL_DEVICE static void clear_borders(uint32_t to, int count, const Thread& t) {
    constexpr int kSide = SIZE + 1, kBorder = 4 * kSide * kPlanes;
    for (int i = t.index; i < count * kBorder; i += kThreads) {
      const int side = i / kPlanes / kSide % 4, k = i / kPlanes % kSide;
      const int y = side == 0 ? 0 : side == 1 ? k : side == 2 ? kSide : kSide - k;
      const int x = side == 0 ? k : side == 1 ? kSide : side == 2 ? kSide - k : 0;
      store_shared(to + i / kBorder * kBytes + at(i % kPlanes, y, x), Quad{0, 0, 0, 0});
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

KERNEL_DEVICE void multiply_tiles(float (&sums)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  multiply(sums[0], a[0], a[1], a[2], a[3], b[0], b[1]);
  multiply(sums[1], a[0], a[1], a[2], a[3], b[2], b[3]);
}

// Where the pixels of a product are, 16 of a row or, where an image is no wider than 8, all of a row and of the fourth
// below it. Four such cover such an image, and from one tap to that below both rows go down by one.
template <int SIZE>
struct Sixteen {
  static constexpr bool kPairs = SIZE == 8;
  KERNEL_DEVICE static int down(int pixel) { return kPairs ? pixel / 8 * 4 : 0; }
  KERNEL_DEVICE static int right(int pixel) { return kPairs ? pixel % 8 : pixel; }
};

struct Forward {
  const uint16_t* x;  // [B, S, S, C]; of a gradient, the output's
  const uint16_t* w;  // [3, 3, C, C]
  uint16_t* y;        // as x
  int batch;
};

// y = conv(x, w), or with BACK the gradient of that by its input: turned by half a turn, output channels summed over.
//
// A warp computes 16 channels of 64 pixels, 16 in a product. A row is loaded once for each dx and serves all dy.
template <int C, bool BACK>
struct Convolution : Sixteen<kSizeOf<C>> {
  static constexpr int kSize = kSizeOf<C>;
  using Sixteen<kSize>::kPairs, Sixteen<kSize>::down, Sixteen<kSize>::right;
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
    constexpr int kUsePlanes = BACK ? 2 : kPlanes;
    constexpr int kATap = 2 * C, kTapsAtOnce = kThreads / kATap;  // of copies, either way
    const int plane = t.index % kUsePlanes + (BACK ? 2 * chunk : 0);
    const int input = t.index % kATap / kUsePlanes + (BACK ? 0 : 16 * chunk), tap = t.index / kATap;
    const uint32_t to = weight_at(tap, plane, input);
    const uint16_t* from = w + (tap * C + input) * C + plane * 8;
    KERNEL_UNROLL
    for (int i = 0; i < (kTaps + kTapsAtOnce - 1) / kTapsAtOnce; ++i) {
      if ((i + 1) * kTapsAtOnce <= kTaps || tap + i * kTapsAtOnce < kTaps) {
        copy_async(to + i * kTapsAtOnce * kPlanes * kWeightPlane, from + i * kTapsAtOnce * C * C);
      }
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
    Source::clear_borders(0, kImages, t);

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
          KERNEL_UNROLL
          for (int i = 0; i < 6; ++i) {
            uint32_t a[4];
            const int pixel = t.lane % 16;
            const int y = top + i + down(pixel), column = left + right(pixel) + dx;
            load_matrices(a, source + Source::at(2 * chunk + t.lane / 16, y, column));
            KERNEL_UNROLL
            for (int dy = 0; dy < 3; ++dy) {
              const int r = i - dy;
              if (r >= 0 && r < 4) multiply_tiles(sums[r], a, b[dx][dy]);
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
        const int pixel = t.group + 8 * half, y = top + r + down(pixel), column = left + right(pixel);
        const int64_t to = static_cast<int64_t>(first + image) * kValues + (y * kSize + column) * C + channel;
        if (first + image < call.batch) store_global(call.y + to, eight);
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
struct Gradient : Sixteen<kSizeOf<C>> {
  static constexpr int kSize = kSizeOf<C>;
  using Sixteen<kSize>::kPairs, Sixteen<kSize>::down, Sixteen<kSize>::right;
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
  static constexpr int kRows = kPairs ? 4 : 8;  // of a product, of one share of a pass
  static_assert(kShares * kRows * 16 == kAPass * kSize * kSize && kAPass == (kPairs ? kShares : 1));

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
    X::clear_borders(0, kImages, t);

    const int square = t.warp % kSquares, share = t.warp / kSquares;
    const int in = square / (kChannels / 16) * 2, out = square % (kChannels / 16) * 2;  // planes
    float sums[3][3][2][4] = {};
    KERNEL_UNROLL
    for (int pass = 0; pass < kPasses; ++pass) {
      wait_for_all_but(kPasses - 1 - pass);
      barrier();
      const int image = pass * kAPass + (kPairs ? share : 0);
      if (first + image < call.batch) add(sums, image, share, in, out, t);
    }

    // Shares are added in one order, whatever warp came first.
    barrier();
    KERNEL_UNROLL
    for (int i = 0; i < kSums / 4; ++i) {
      const float(&four)[4] = sums[i / 6][i / 2 % 3][i % 2];
      store_shared((t.warp * kSquare + (i * kLanes + t.lane) * 4) * 4, FloatQuad{four[0], four[1], four[2], four[3]});
    }
    barrier();
    float* to = call.partial + static_cast<int64_t>(group) * kAll + slice * kNumbers;
    KERNEL_UNROLL
    for (int k = 0; k < (kNumbers + 4 * kThreads - 1) / (4 * kThreads); ++k) {
      const int i = (k * kThreads + t.index) * 4;
      if (i >= kNumbers) continue;
      FloatQuad sum = load_shared<FloatQuad>(i * 4);
      KERNEL_UNROLL
      for (int share = 1; share < kShares; ++share) {
        const FloatQuad more = load_shared<FloatQuad>((share * kNumbers + i) * 4);
        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
      }
      store_global(to + i, sum);
    }
  }

  KERNEL_DEVICE static void add(float (&sums)[3][3][2][4], int image, int share, int in, int out, const Thread& t) {
    constexpr int kAcross = kPairs ? 1 : kSize / 16;
    const int left = share % kAcross * 16, top = kPairs ? 0 : share / kAcross * kRows;
    const uint32_t x = image * X::kBytes, dy = kGradients + image * DY::kBytes;
    uint32_t b[3][4];
    KERNEL_UNROLL
    for (int i = 0; i < kRows + 2; ++i) {
      if (i < kRows) {
        const int pixel = t.lane % 16;
        load_transposed(b[i % 3], dy + DY::at(out + t.lane / 16, top + i + down(pixel), left + right(pixel)));
      }
      KERNEL_UNROLL
      for (int dx = 0; dx < 3; ++dx) {
        uint32_t a[4];
        const int pixel = t.lane / 16 * 8 + t.lane % 8;
        load_transposed(a, x + X::at(in + t.lane / 8 % 2, top + i + down(pixel), left + right(pixel) + dx));
        KERNEL_UNROLL
        for (int tap = 0; tap < 3; ++tap) {
          const int r = i - tap;
          if (r >= 0 && r < kRows) multiply_tiles(sums[tap][dx], a, b[r % 3]);
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
    constexpr int kSide = G::kChannels / 16;
    const int slice = i / G::kNumbers, square = i / G::kSquare % G::kSquares, quad = i % G::kSquare / (4 * kLanes);
    const int tap = quad / 2, tile = quad % 2, lane = i / 4 % kLanes, e = i % 4;
    const int input = slice / G::kSlices * G::kChannels + square / kSide * 16 + lane / 4 + e / 2 * 8;
    const int output = slice % G::kSlices * G::kChannels + square % kSide * 16 + tile * 8 + lane % 4 * 2 + e % 2;
    const int to = (tap * C + input) * C + output;
    if (call.dw) call.dw[to] = all;
    if (call.rounded) call.rounded[to] = static_cast<uint16_t>(pack(all, 0.0f));
  }
};

}  // namespace convolution
