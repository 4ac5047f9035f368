// A whole routed CIFAR ResNet on one image, by one thread block of 256 threads; a skipped block is a branch.
//
// Activations lie in shared memory as planes of 8 channels, [C / 8][y][x][8] bfloat16, with a border of zeros one pixel
// wide: eight neighbouring pixels are 128 bytes in a row, which is what a matrix load reads without a bank conflict, and
// a tap of a 3x3 convolution is an offset. A convolution is a product of pixels and input channels with input channels
// and output channels, tap by tap. A row of pixels is loaded once for each dx and serves all dy, in up to three rows of
// the output.
//
// Weights come from global memory (all blocks read the same, so from L2) in the order in which lanes hold them.
#pragma once

#include "primitives.h"

namespace fused {

using namespace device;

constexpr int kThreads = 256;
constexpr int kWarps = 8;
constexpr int kLanes = 32;

// What a launch is given. Arrays are in global memory; sizes are the caller's to check.
struct Network {
  const uint8_t* images;    // [B, 32, 32, 3]
  const uint16_t* pixels;   // [3, 256], bfloat16 by channel and pixel value
  const uint32_t* weights;  // of the stem, then of conv1 and conv2 of every block
  const float* floats;      // bias of the stem, every block's `Floats`, kernel [64, Y] and bias [Y] of the head
  const float* threshold;   // one number
  const float* noise;       // [B, n, 2] or null
  float* logits;            // [B, Y]
  float* v;                 // [B, n]
  float* means;             // [B, n + 1, 64] or null: pooled input of every block, then of the head
  int blocks[3];            // of each stage
  int num_classes;
  int routed;
};

// Where a block's float32 numbers are, counted from its first; its router's come first.
template <int CIN, int COUT>
struct Floats {
  static constexpr int kHiddenBias = CIN * CIN;
  static constexpr int kDecide = kHiddenBias + CIN;
  static constexpr int kDecideBias = kDecide + 2 * CIN;
  static constexpr int kBias1 = kDecideBias + 4;  // two of them, so that all begins at a multiple of 16 bytes
  static constexpr int kBias2 = kBias1 + COUT;
  static constexpr int kAll = kBias2 + COUT;
};

constexpr int kStemWeights = 5 * 16 * 16 / 2;
constexpr int kStemFloats = 16;

template <int CIN, int COUT>
constexpr int kConvWeights = 9 * CIN * COUT / 2;

// An image in shared memory, its first byte at AT. Coordinates of `at` count the border: the image begins at (1, 1).
template <int SIZE, int CHANNELS, int AT>
struct Image {
  static constexpr int kSize = SIZE;
  static constexpr int kChannels = CHANNELS;
  static constexpr int kPitch = SIZE + 2;
  static constexpr int kPlane = kPitch * kPitch * 16;
  static constexpr int kBegin = AT;
  static constexpr int kEnd = AT + CHANNELS / 8 * kPlane;

  KERNEL_DEVICE static uint32_t at(int plane, int y, int x) {
    return static_cast<uint32_t>(AT + plane * kPlane + (y * kPitch + x) * 16);
  }
};

// Each stage has the block's input and what lies between its convolutions. A transition reads the input of the stage
// before and writes both of its own, so these three never share a byte.
using A1 = Image<32, 16, 0>;
using X1 = Image<32, 16, A1::kEnd>;
using X2 = Image<16, 32, X1::kBegin>;
using A2 = Image<16, 32, X2::kEnd>;
using X3 = Image<8, 64, 0>;
using A3 = Image<8, 64, X3::kEnd>;
using Pixels = Image<32, 8, X1::kBegin>;  // three channels of eight are used; X1's border is its border
static_assert(A2::kBegin >= A1::kEnd && A3::kEnd <= A2::kBegin && X1::kEnd <= A2::kEnd);

constexpr int kSums = A2::kEnd;           // [slot][C] float32, the channels' sums over each warp's part of the image
constexpr int kVotes = kSums + 512;       // [2][warp][2] float32, each warp's part of the router's two outputs
constexpr int kSharedBytes = kVotes + 128;

struct Thread {
  int index, warp, lane, group, column;  // group and column: the lane's row and pair of columns in a product

  KERNEL_DEVICE explicit Thread(int t)
      : index(t), warp(t / kLanes), lane(t % kLanes), group(t % kLanes / 4), column(t % 4) {}
};

// The weights of one convolution as they stream through registers, DEPTH steps of STEPS ahead; a step is 16 input
// channels and one dx, with all dy and TILES times 8 output channels.
template <int TILES, int STEPS, int DEPTH>
struct Stream {
  const uint32_t* from;
  uint32_t b[DEPTH][3][2 * TILES];
  float bias[TILES][2];

  KERNEL_DEVICE void load(int step) {
    KERNEL_UNROLL
    for (int dy = 0; dy < 3; ++dy) load_weights(b[step % DEPTH][dy], from + (step * 3 + dy) * kLanes * 2 * TILES);
  }

  // `part` numbers the groups of 8 TILES output channels.
  KERNEL_DEVICE void start(const uint32_t* weights, const float* biases, int part, const Thread& t) {
    from = weights + (part * STEPS * 3 * kLanes + t.lane) * 2 * TILES;
    KERNEL_UNROLL
    for (int step = 0; step < DEPTH; ++step) load(step);
    KERNEL_UNROLL
    for (int tile = 0; tile < TILES; ++tile) load_floats(bias[tile], biases + (part * TILES + tile) * 8 + t.column * 2);
  }

  KERNEL_DEVICE void used(int step) {
    if (step + DEPTH < STEPS) load(step + DEPTH);
  }
};

// A 3x3 convolution whose warps each compute 16 output channels of ROWS rows, 16 pixels wide.
template <class SOURCE, int COUT, int STRIDE, int ROWS>
struct RowConv {
  static constexpr int kSize = SOURCE::kSize / STRIDE;
  static constexpr int kTiles = 2;                  // of 8 output channels
  static constexpr int kParts = COUT / 16;          // groups of output channels
  static constexpr int kStrips = kSize / 16;        // across a row
  static constexpr int kSlots = kWarps / kParts;    // warps that share a channel
  static constexpr int kHeights = ROWS;             // results a warp hands on, one after another
  static constexpr int kSteps = SOURCE::kChannels / 16 * 3;
  static constexpr int kDepth = kSteps == 3 ? 3 : 2;
  static constexpr int kRowsIn = STRIDE * (ROWS - 1) + 3;
  static_assert(kParts * kStrips * (kSize / ROWS) == kWarps);

  Stream<kTiles, kSteps, kDepth> stream;
  int part, slot, x, y;

  KERNEL_DEVICE explicit RowConv(const Thread& t)
      : part(t.warp % kParts),
        slot(t.warp / kParts),
        x(slot % kStrips * 16),
        y(slot / kStrips * ROWS) {}

  KERNEL_DEVICE void start(const uint32_t* weights, const float* biases, const Thread& t) {
    stream.start(weights, biases, part, t);
  }

  // Where a result is: `half` tells apart the lane's two pixels.
  KERNEL_DEVICE int plane(int tile) const { return part * kTiles + tile; }
  KERNEL_DEVICE int row(int height, int half) const { return (void)half, y + height; }
  KERNEL_DEVICE int column(int half, const Thread& t) const { return x + t.group + 8 * half; }

  KERNEL_DEVICE void multiply_row(float (&sums)[ROWS][kTiles][4], int i, int step, const Thread& t) {
    uint32_t a[4];
    const int plane = step / 3 * 2 + t.lane / 16, dx = step % 3;
    load_matrices(a, SOURCE::at(plane, STRIDE * y + i, STRIDE * (x + t.lane % 16) + dx));
    KERNEL_UNROLL
    for (int dy = 0; dy < 3; ++dy) {
      const int r = i - dy;
      if (r < 0 || r % STRIDE || r / STRIDE >= ROWS) continue;
      KERNEL_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint32_t(&b)[2 * kTiles] = stream.b[step % kDepth][dy];
        multiply(sums[r / STRIDE][tile], a[0], a[1], a[2], a[3], b[2 * tile], b[2 * tile + 1]);
      }
    }
  }

  // Calls hand_on(height, float[kTiles][4]) for each height.
  template <class HandOn>
  KERNEL_DEVICE void run(const Thread& t, HandOn hand_on) {
    float sums[ROWS][kTiles][4];
    KERNEL_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      KERNEL_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        KERNEL_UNROLL
        for (int i = 0; i < 4; ++i) sums[r][tile][i] = stream.bias[tile][i % 2];
      }
    }
    if (kSteps == kDepth) {
      // All weights are at hand: row by row, so that no more than three rows of sums are alive.
      KERNEL_UNROLL
      for (int i = 0; i < kRowsIn; ++i) {
        KERNEL_UNROLL
        for (int step = 0; step < kSteps; ++step) multiply_row(sums, i, step, t);
        if (i >= 2 && (i - 2) % STRIDE == 0) hand_on((i - 2) / STRIDE, sums[(i - 2) / STRIDE]);
      }
    } else {
      KERNEL_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        KERNEL_UNROLL
        for (int i = 0; i < kRowsIn; ++i) multiply_row(sums, i, step, t);
        stream.used(step);
      }
      KERNEL_UNROLL
      for (int r = 0; r < ROWS; ++r) hand_on(r, sums[r]);
    }
  }
};

// A 3x3 convolution to 8x8 pixels and 64 channels, whose warps each compute 8 output channels of all pixels. A product's
// 16 rows are two rows of the image, each half of its registers one of them, so that a row is loaded once for all pairs.
template <class SOURCE, int STRIDE>
struct PairConv {
  static constexpr int kTiles = 1;
  static constexpr int kSlots = 1;
  static constexpr int kHeights = 4;
  static constexpr int kSteps = SOURCE::kChannels / 16 * 3;
  static constexpr int kDepth = 3;
  static constexpr int kRowsIn = STRIDE * 7 + 3;
  static_assert(SOURCE::kSize == 8 * STRIDE);

  Stream<kTiles, kSteps, kDepth> stream;
  int part;
  static constexpr int slot = 0;

  KERNEL_DEVICE explicit PairConv(const Thread& t) : part(t.warp) {}

  KERNEL_DEVICE void start(const uint32_t* weights, const float* biases, const Thread& t) {
    stream.start(weights, biases, part, t);
  }

  KERNEL_DEVICE int plane(int tile) const { return (void)tile, part; }
  KERNEL_DEVICE int row(int height, int half) const { return 2 * height + half; }
  KERNEL_DEVICE int column(int half, const Thread& t) const { return (void)half, t.group; }

  template <class HandOn>
  KERNEL_DEVICE void run(const Thread& t, HandOn hand_on) {
    float sums[4][1][4];
    KERNEL_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      KERNEL_UNROLL
      for (int i = 0; i < 4; ++i) sums[pair][0][i] = stream.bias[0][i % 2];
    }
    KERNEL_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      // The first row is border, and so is the last without a stride: zero, and not loaded.
      uint32_t rows[kRowsIn + 1][2];
      rows[0][0] = rows[0][1] = rows[kRowsIn - 1][0] = rows[kRowsIn - 1][1] = 0;
      KERNEL_UNROLL
      for (int i = 1; i < 8 * STRIDE; i += 2) {
        uint32_t a[4];
        load_matrices(a, SOURCE::at(step / 3 * 2 + t.lane / 8 % 2, i + t.lane / 16, t.lane % 8 * STRIDE + step % 3));
        rows[i][0] = a[0], rows[i][1] = a[1], rows[i + 1][0] = a[2], rows[i + 1][1] = a[3];
      }
      KERNEL_UNROLL
      for (int dy = 0; dy < 3; ++dy) {
        KERNEL_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
          const uint32_t(&b)[2] = stream.b[step % kDepth][dy];
          const uint32_t(&first)[2] = rows[STRIDE * 2 * pair + dy], (&second)[2] = rows[STRIDE * (2 * pair + 1) + dy];
          multiply(sums[pair][0], first[0], second[0], first[1], second[1], b[0], b[1]);
        }
      }
      stream.used(step);
    }
    KERNEL_UNROLL
    for (int pair = 0; pair < 4; ++pair) hand_on(pair, sums[pair]);
  }
};

// A thread's part of the channels' sums over the image, of what was written and so rounded.
template <class CONV>
struct Pool {
  float sums[CONV::kTiles][2] = {};

  KERNEL_DEVICE void add(int tile, uint32_t packed) {
    sums[tile][0] += lower(packed);
    sums[tile][1] += upper(packed);
  }

  // Sums over the warp, always in one order.
  KERNEL_DEVICE void finish(const CONV& conv, int channels, const Thread& t) {
    KERNEL_UNROLL
    for (int tile = 0; tile < CONV::kTiles; ++tile) {
      KERNEL_UNROLL
      for (int i = 0; i < 2; ++i) {
        KERNEL_UNROLL
        for (int mask = 4; mask < kLanes; mask *= 2) sums[tile][i] += shuffle_xor(sums[tile][i], mask);
        if (t.group == 0) {
          const int channel = conv.plane(tile) * 8 + t.column * 2 + i;
          store_shared(kSums + (conv.slot * channels + channel) * 4, sums[tile][i]);
        }
      }
    }
  }
};

template <int SLOTS, class A>
KERNEL_DEVICE float pooled_mean(int channel) {
  float sum = 0;
  KERNEL_UNROLL
  for (int slot = 0; slot < SLOTS; ++slot) sum += load_shared<float>(kSums + (slot * A::kChannels + channel) * 4);
  return sum * (1.0f / (A::kSize * A::kSize));
}

// The router of a block with this input. Its weights are loaded a block ahead.
template <int SLOTS, class A>
struct Router {
  static constexpr int C = A::kChannels;
  static constexpr int kInputs = C * C / kThreads;   // of a hidden unit, for one lane
  static constexpr int kLanesAUnit = kThreads / C;
  static constexpr int kWidth = kInputs < 4 ? kInputs : 4;
  using At = Floats<C, C>;

  float hidden[kInputs / kWidth][kWidth], hidden_bias[1], decide[2], decide_bias[2], noise[2];

  KERNEL_DEVICE void load(const Network& net, const float* floats, const float* block_noise, const Thread& t) {
    if (!net.routed) return;
    KERNEL_UNROLL
    for (int i = 0; i < kInputs / kWidth; ++i) load_floats(hidden[i], floats + (i * kThreads + t.index) * kWidth);
    const int unit = t.index / kLanesAUnit;
    load_floats(hidden_bias, floats + At::kHiddenBias + unit);
    load_floats(decide, floats + At::kDecide + 2 * unit);
    load_floats(decide_bias, floats + At::kDecideBias);
    noise[0] = noise[1] = 0;
    if (net.noise) load_floats(noise, block_noise);
  }

  // v, the same in all threads. `next` is called when the weights have been used. Has a barrier within.
  template <class Next>
  KERNEL_DEVICE float v(int k, const Thread& t, Next next) {
    float sum = 0;
    KERNEL_UNROLL
    for (int i = 0; i < kInputs; ++i) {
      sum += pooled_mean<SLOTS, A>(t.index % kLanesAUnit * kInputs + i) * hidden[i / kWidth][i % kWidth];
    }
    KERNEL_UNROLL
    for (int mask = 1; mask < kLanesAUnit; mask *= 2) sum += shuffle_xor(sum, mask);
    sum = relu(sum + hidden_bias[0]);
    float skip = sum * decide[0], run = sum * decide[1];
    KERNEL_UNROLL
    for (int mask = kLanesAUnit; mask < kLanes; mask *= 2) skip += shuffle_xor(skip, mask), run += shuffle_xor(run, mask);
    // Two sets in turn: a thread may still read one while another has come to the next block.
    const uint32_t votes = kVotes + k % 2 * kWarps * 8;
    if (t.lane == 0) store_shared(votes + t.warp * 8, Pair{skip, run});
    Pair all{0, 0};
    const float biases[2] = {decide_bias[0], decide_bias[1]}, added[2] = {noise[0], noise[1]};
    next();
    barrier();
    KERNEL_UNROLL
    for (int warp = 0; warp < kWarps; ++warp) {
      const Pair vote = load_shared<Pair>(votes + warp * 8);
      all.x += vote.x, all.y += vote.y;
    }
    const float lead = (all.y + biases[1] + added[1]) - (all.x + biases[0] + added[0]);
    return 1.0f / (1.0f + exponential(-lead));
  }
};

// What travels from block to block.
struct Walk {
  int image, k;  // k: the next block, counted over all stages
  int n;         // of blocks in all
  const uint32_t* weights;
  const float* floats;  // of block k
  bool is_written;      // whether activations and sums were written since the last barrier
  float threshold;
};

template <int SLOTS, class A>
KERNEL_DEVICE void write_means(const Network& net, const Walk& walk, const Thread& t) {
  if (net.means && t.index < A::kChannels) {
    net.means[(static_cast<int64_t>(walk.image) * (walk.n + 1) + walk.k) * 64 + t.index] =
        pooled_mean<SLOTS, A>(t.index);
  }
}

// One block. FIRST reads A and writes X; SECOND reads X, and writes OUT: A itself, or of the next stage. SLOTS: of the
// sums over A.
template <class FIRST, class SECOND, int SLOTS, class A, class X, class OUT>
KERNEL_DEVICE void block(const Network& net, Walk& walk, Router<SLOTS, A>& router, const Thread& t) {
  constexpr bool kIdentity = A::kSize == OUT::kSize;
  constexpr int kShift = (OUT::kChannels - A::kChannels) / 16;  // planes of zeros before the shortcut's own
  using At = Floats<A::kChannels, OUT::kChannels>;
  if (walk.is_written) barrier();
  walk.is_written = false;
  write_means<SLOTS, A>(net, walk, t);

  float v = 1;
  if (net.routed) {
    v = router.v(walk.k, t, [&] {
      // The next block has as many input channels, or is of a stage that loads its first router itself.
      if (kIdentity && walk.k + 1 < walk.n) {
        const int64_t gate = static_cast<int64_t>(walk.image) * walk.n + walk.k + 1;
        router.load(net, walk.floats + At::kAll, net.noise + 2 * gate, t);
      }
    });
  }
  const bool runs = !net.routed || v >= walk.threshold;
  if (t.index == 0) net.v[static_cast<int64_t>(walk.image) * walk.n + walk.k] = v;

  SECOND second(t);
  Pool<SECOND> pool;
  // The lane's two results a height and tile: added to the shortcut, rounded, written and summed.
  const auto finish = [&](int height, const float (&sums)[SECOND::kTiles][4]) {
    KERNEL_UNROLL
    for (int tile = 0; tile < SECOND::kTiles; ++tile) {
      KERNEL_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int plane = second.plane(tile), y = second.row(height, half), x = second.column(half, t);
        const uint32_t to = OUT::at(plane, y + 1, x + 1) + t.column * 4;
        uint32_t shortcut = 0;
        if (kIdentity) {
          shortcut = load_shared<uint32_t>(to);
        } else if (plane >= kShift && plane < kShift + A::kChannels / 8) {
          shortcut = load_shared<uint32_t>(A::at(plane - kShift, 2 * y + 1, 2 * x + 1) + t.column * 4);
        }
        const uint32_t packed =
            relu_pack(sums[tile][2 * half] + lower(shortcut), sums[tile][2 * half + 1] + upper(shortcut));
        store_shared(to, packed);
        pool.add(tile, packed);
      }
    }
  };

  if (runs) {
    FIRST first(t);
    first.start(walk.weights, walk.floats + At::kBias1, t);
    first.run(t, [&](int height, const float (&sums)[FIRST::kTiles][4]) {
      KERNEL_UNROLL
      for (int tile = 0; tile < FIRST::kTiles; ++tile) {
        KERNEL_UNROLL
        for (int half = 0; half < 2; ++half) {
          const uint32_t to = X::at(first.plane(tile), first.row(height, half) + 1, first.column(half, t) + 1);
          store_shared(to + t.column * 4, relu_pack(sums[tile][2 * half], sums[tile][2 * half + 1]));
        }
      }
    });
    second.start(walk.weights + kConvWeights<A::kChannels, OUT::kChannels>, walk.floats + At::kBias2, t);
    barrier();
    second.run(t, finish);
  } else if (!kIdentity) {
    const float nothing[SECOND::kTiles][4] = {};
    KERNEL_UNROLL
    for (int height = 0; height < SECOND::kHeights; ++height) finish(height, nothing);
  }
  if (runs || !kIdentity) {
    pool.finish(second, OUT::kChannels, t);
    walk.is_written = true;
  }
  walk.weights += kConvWeights<A::kChannels, OUT::kChannels> + kConvWeights<OUT::kChannels, OUT::kChannels>;
  walk.floats += At::kAll;
  ++walk.k;
}

KERNEL_DEVICE void clear(int begin, int end, const Thread& t) {
  for (int at = begin + t.index * 16; at < end; at += kThreads * 16) store_shared(at, Quad{0, 0, 0, 0});
}

// The image, normalised, as channels 0 to 2 of `Pixels`; four pixels a thread.
KERNEL_DEVICE void read_pixels(const Network& net, int image, const Thread& t) {
  const uint8_t* from = net.images + static_cast<int64_t>(image) * 32 * 32 * 3 + t.index * 12;
  const int y = t.index / 8, x = t.index % 8 * 4;
  KERNEL_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t red = net.pixels[from[3 * i]], green = net.pixels[256 + from[3 * i + 1]];
    const uint32_t blue = net.pixels[512 + from[3 * i + 2]];
    store_shared(Pixels::at(0, y + 1, x + i + 1), Quad{red | green << 16, blue, 0, 0});
  }
}

using Conv1 = RowConv<A1, 16, 1, 8>;   // of stage 1
using Conv1X = RowConv<X1, 16, 1, 8>;
using Into2 = RowConv<A1, 32, 2, 4>;
using Conv2 = RowConv<A2, 32, 1, 4>;
using Conv2X = RowConv<X2, 32, 1, 4>;
using Into3 = PairConv<A2, 2>;
using Conv3 = PairConv<A3, 1>;
using Conv3X = PairConv<X3, 1>;

// The stem: a product's 16 inputs are two taps of 8 channels, and the tenth tap has no weights.
KERNEL_DEVICE void stem(const Network& net, const Thread& t) {
  const Conv1 place(t);
  Pool<Conv1> pool;
  uint32_t b[5][4];
  float bias[2][2];
  KERNEL_UNROLL
  for (int step = 0; step < 5; ++step) load_weights(b[step], net.weights + (step * kLanes + t.lane) * 4);
  KERNEL_UNROLL
  for (int tile = 0; tile < 2; ++tile) load_floats(bias[tile], net.floats + tile * 8 + t.column * 2);
  KERNEL_UNROLL
  for (int r = 0; r < 8; ++r) {
    float sums[2][4];
    KERNEL_UNROLL
    for (int i = 0; i < 8; ++i) sums[i / 4][i % 4] = bias[i / 4][i % 2];
    KERNEL_UNROLL
    for (int step = 0; step < 5; ++step) {
      uint32_t a[4];
      const int tap = step == 4 ? 8 : 2 * step + t.lane / 16;
      load_matrices(a, Pixels::at(0, place.y + r + tap / 3, place.x + t.lane % 16 + tap % 3));
      KERNEL_UNROLL
      for (int tile = 0; tile < 2; ++tile) {
        multiply(sums[tile], a[0], a[1], a[2], a[3], b[step][2 * tile], b[step][2 * tile + 1]);
      }
    }
    KERNEL_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
      KERNEL_UNROLL
      for (int half = 0; half < 2; ++half) {
        const uint32_t packed = relu_pack(sums[tile][2 * half], sums[tile][2 * half + 1]);
        const uint32_t to = A1::at(tile, place.y + r + 1, place.column(half, t) + 1);
        store_shared(to + t.column * 4, packed);
        pool.add(tile, packed);
      }
    }
  }
  pool.finish(place, 16, t);
}

KERNEL_DEVICE void head(const Network& net, const Walk& walk, const Thread& t) {
  for (int y = t.index; y < net.num_classes; y += kThreads) {
    float sum = walk.floats[64 * net.num_classes + y];
    KERNEL_UNROLL
    for (int channel = 0; channel < 64; ++channel) {
      sum += pooled_mean<Conv3X::kSlots, A3>(channel) * walk.floats[channel * net.num_classes + y];
    }
    net.logits[static_cast<int64_t>(walk.image) * net.num_classes + y] = sum;
  }
}

// Everything, for one image and one of its threads.
KERNEL_DEVICE void answer(const Network& net, int image, int thread) {
  const Thread t(thread);
  Walk walk{image,
            0,
            net.blocks[0] + net.blocks[1] + net.blocks[2],
            net.weights + kStemWeights,
            net.floats + kStemFloats,
            true,
            *net.threshold};
  const auto noise = [&] { return net.noise + 2 * (static_cast<int64_t>(image) * walk.n + walk.k); };

  constexpr int kSlots1 = Conv1X::kSlots, kSlots2 = Conv2X::kSlots, kSlots3 = Conv3X::kSlots;
  Router<kSlots1, A1> router1;
  router1.load(net, walk.floats, noise(), t);
  clear(0, A2::kEnd, t);
  barrier();
  read_pixels(net, image, t);
  barrier();
  stem(net, t);
  for (int i = 0; i < net.blocks[0]; ++i) block<Conv1, Conv1X, kSlots1, A1, X1, A1>(net, walk, router1, t);

  barrier();
  clear(X2::kBegin, A2::kEnd, t);
  walk.is_written = true;
  block<Into2, Conv2X, kSlots1, A1, X2, A2>(net, walk, router1, t);
  Router<kSlots2, A2> router2;
  router2.load(net, walk.floats, noise(), t);
  for (int i = 1; i < net.blocks[1]; ++i) block<Conv2, Conv2X, kSlots2, A2, X2, A2>(net, walk, router2, t);

  barrier();
  clear(X3::kBegin, A3::kEnd, t);
  walk.is_written = true;
  block<Into3, Conv3X, kSlots2, A2, X3, A3>(net, walk, router2, t);
  Router<kSlots3, A3> router3;
  if (walk.k < walk.n) router3.load(net, walk.floats, noise(), t);
  for (int i = 1; i < net.blocks[2]; ++i) block<Conv3, Conv3X, kSlots3, A3, X3, A3>(net, walk, router3, t);

  barrier();
  write_means<kSlots3, A3>(net, walk, t);
  head(net, walk, t);
}

}  // namespace fused
