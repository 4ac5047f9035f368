// Convolutions of float32 images [B, H, W, C] by kernels [h, w, C, O], and the gradients of those kernels, image by image.
//
// A vector holds neighbouring output channels, and a tile of sums stays in registers while all that it adds up is read
// once. By the vector extensions of GCC and Clang, which become the instructions of the processor compiled for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace simd {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif
constexpr int kChannels = 16;  // what O is a multiple of, on every processor
constexpr int kTile = kRegisters / 2;  // sums of a tile; the other registers hold what is multiplied

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

struct Shape {
  int64_t batch, height, width, in;               // of x
  int64_t kernel_height, kernel_width;            //
  int64_t stride, top, left;                      // zeros above and to the left of x
  int64_t out_height, out_width, out;             // of y
  int64_t padded_height() const { return (out_height - 1) * stride + kernel_height; }
  int64_t padded_width() const { return (out_width - 1) * stride + kernel_width; }
  int64_t padded_row() const { return padded_width() * in; }
  int64_t padded_size() const { return padded_height() * padded_row(); }
  int64_t kernel_row() const { return kernel_width * in; }
  int64_t kernel_size() const { return kernel_height * kernel_row() * out; }
};

// An image among the zeros that windows at its border read; what no window reads is left out.
inline void pad(const Shape& s, const float* x, float* padded) {
  const int64_t columns = std::min(s.width, s.padded_width() - s.left) * s.in;
  float* row = padded;
  for (int64_t i = -s.top; i < s.padded_height() - s.top; ++i, row += s.padded_row()) {
    float* end = row + s.padded_row();
    if (i < 0 || i >= s.height) {
      std::fill(row, end, 0.0f);
      continue;
    }
    float* begin = row + s.left * s.in;
    std::fill(row, begin, 0.0f);
    std::memcpy(begin, x + i * s.width * s.in, sizeof(float) * columns);
    std::fill(begin + columns, end, 0.0f);
  }
}

// What the outputs of an image see of x: windows, how they lie in memory, and their weights.
struct Windows {
  int64_t height, width;         // so many outputs
  int64_t rows, row, pitch;      // of a window, rows of so many numbers each, and from one to the next in x
  int64_t step, down;            // from a window to its right neighbour, and to the one below
  int64_t weights, next_vector;  // from one number's weights to the next one's, and to the next output channels'
};

// y of PIXELS neighbours in a row and OUT vectors of channels: finish(pixel, vector, sum) does what is to be done with it.
template <int PIXELS, int OUT, class Finish>
void output_tile(const Windows& s, const float* x, const float* w, Finish finish) {
  Vector sums[PIXELS][OUT] = {};
  for (int64_t i = 0; i < s.rows; ++i, x += s.pitch) {
    for (int64_t j = 0; j < s.row; ++j, w += s.weights) {
      Vector weights[OUT];
#pragma GCC unroll 32
      for (int o = 0; o < OUT; ++o) weights[o] = load(w + o * s.next_vector);
#pragma GCC unroll 32
      for (int p = 0; p < PIXELS; ++p) {
        const float number = x[j + p * s.step];
#pragma GCC unroll 32
        for (int o = 0; o < OUT; ++o) sums[p][o] += number * weights[o];
      }
    }
  }
#pragma GCC unroll 32
  for (int p = 0; p < PIXELS; ++p) {
#pragma GCC unroll 32
    for (int o = 0; o < OUT; ++o) finish(p, o, sums[p][o]);
  }
}

// Of a row, what is right of the j-th pixel; finish(pixel, vector, sum).
template <int PIXELS, int OUT, class Finish>
void output_row(const Windows& s, int64_t j, const float* x, const float* w, Finish finish) {
  for (; j + PIXELS <= s.width; j += PIXELS) {
    output_tile<PIXELS, OUT>(s, x + j * s.step, w, [&, j](int64_t p, int o, Vector sum) { finish(j + p, o, sum); });
  }
  if constexpr (PIXELS > 1) {
    if (j < s.width) output_row<PIXELS / 2, OUT>(s, j, x, w, finish);
  }
}

// y of ROWS x PIXELS neighbours and one vector of channels, of windows of three columns, each one column further. A number
// is read once for the three that see it: to read it for each takes longer than to multiply. finish(row, pixel, sum).
template <int ROWS, int PIXELS, class Finish>
void sliding_tile(const Windows& s, const float* x, const float* w, Finish finish) {
  Vector sums[ROWS][PIXELS] = {};
  const int64_t column = s.step * s.weights;
  for (int64_t i = 0; i < s.rows; ++i, x += s.pitch, w += 2 * column) {
    for (int64_t c = 0; c < s.step; ++c, w += s.weights) {
      const Vector left = load(w), middle = load(w + column), right = load(w + 2 * column);
#pragma GCC unroll 32
      for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 32
        for (int p = 0; p < PIXELS + 2; ++p) {
          const float number = x[r * s.down + p * s.step + c];
          if (p < PIXELS) sums[r][p] += number * left;
          if (0 < p && p <= PIXELS) sums[r][p - 1] += number * middle;
          if (1 < p) sums[r][p - 2] += number * right;
        }
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 32
    for (int p = 0; p < PIXELS; ++p) finish(r, p, sums[r][p]);
  }
}

// Of ROWS rows from the i-th on, what is right of the j-th column.
template <int ROWS, int PIXELS, class Finish>
void sliding_band(const Windows& s, int64_t i, int64_t j, const float* x, const float* w, Finish finish) {
  for (; j + PIXELS <= s.width; j += PIXELS) {
    sliding_tile<ROWS, PIXELS>(s, x + i * s.down + j * s.step, w,
                               [&, j](int r, int p, Vector sum) { finish(i + r, j + p, sum); });
  }
  if constexpr (PIXELS > 1) {
    if (j < s.width) sliding_band<ROWS, PIXELS / 2>(s, i, j, x, w, finish);
  }
}

// What is below the i-th row.
template <int ROWS, int PIXELS, class Finish>
void sliding_bands(const Windows& s, int64_t i, const float* x, const float* w, Finish finish) {
  for (; i + ROWS <= s.height; i += ROWS) sliding_band<ROWS, PIXELS>(s, i, 0, x, w, finish);
  if constexpr (ROWS > 1) {
    if (i < s.height) sliding_bands<ROWS / 2, PIXELS>(s, i, x, w, finish);
  }
}

// All outputs of an image, of so many vectors of channels; weights_of(v) are the v-th's, and finish(i, j, v, sum) does
// what is to be done with a sum. Few columns are taken in several rows at once: weights are then read as seldom.
template <class WeightsOf, class Finish>
void output_all(const Windows& s, int64_t vectors, const float* x, WeightsOf weights_of, Finish finish) {
  const bool slide = s.row == 3 * s.step, is_wide = s.width >= kTile;
  int64_t v = 0;
  for (const int64_t pairs = slide && !is_wide ? 0 : vectors / 2 * 2; v < pairs; v += 2) {
    for (int64_t i = 0; i < s.height; ++i) {
      output_row<kTile / 2, 2>(s, 0, x + i * s.down, weights_of(v),
                               [&](int64_t j, int o, Vector sum) { finish(i, j, v + o, sum); });
    }
  }
  for (; v < vectors; ++v) {
    const auto each = [&](int64_t i, int64_t j, Vector sum) { finish(i, j, v, sum); };
    if (!slide) {
      for (int64_t i = 0; i < s.height; ++i) {
        output_row<kTile, 1>(s, 0, x + i * s.down, weights_of(v), [&](int64_t j, int, Vector sum) { each(i, j, sum); });
      }
    } else if (is_wide) {
      sliding_bands<1, kTile>(s, 0, x, weights_of(v), each);
    } else if (s.width >= kTile / 2) {
      sliding_bands<2, kTile / 2>(s, 0, x, weights_of(v), each);
    } else {
      sliding_bands<4, kTile / 4>(s, 0, x, weights_of(v), each);
    }
  }
}

// One image [H', W', O]; `scratch` has room for `padded_size` numbers.
inline void convolve(const Shape& s, const float* x, const float* w, float* y, float* scratch) {
  pad(s, x, scratch);
  const Windows windows = {s.out_height,   s.out_width,     s.kernel_height,           s.kernel_row(),
                           s.padded_row(), s.stride * s.in, s.stride * s.padded_row(), s.out,          kLanes};
  output_all(
      windows, s.out / kLanes, scratch, [=](int64_t v) { return w + v * kLanes; },
      [=](int64_t i, int64_t j, int64_t v, Vector sum) { store(y + (i * s.out_width + j) * s.out + v * kLanes, sum); });
}

// To dw of one row of windows' rows, IN neighbours of it and OUT vectors of channels, what some rows of y add.
template <int IN, int OUT>
void gradient_tile(const Shape& s, int64_t rows, const float* padded, const float* dy, float* dw) {
  Vector sums[IN][OUT];
#pragma GCC unroll 32
  for (int c = 0; c < IN; ++c) {
#pragma GCC unroll 32
    for (int o = 0; o < OUT; ++o) sums[c][o] = load(dw + c * s.out + o * kLanes);
  }
  const int64_t step = s.stride * s.in;
  for (int64_t i = 0; i < rows; ++i, padded += s.stride * s.padded_row()) {
    const float* from = padded;
    for (int64_t j = 0; j < s.out_width; ++j, from += step, dy += s.out) {
      Vector outputs[OUT];
#pragma GCC unroll 32
      for (int o = 0; o < OUT; ++o) outputs[o] = load(dy + o * kLanes);
#pragma GCC unroll 32
      for (int c = 0; c < IN; ++c) {
        const float input = from[c];
#pragma GCC unroll 32
        for (int o = 0; o < OUT; ++o) sums[c][o] += input * outputs[o];
      }
    }
  }
#pragma GCC unroll 32
  for (int c = 0; c < IN; ++c) {
#pragma GCC unroll 32
    for (int o = 0; o < OUT; ++o) store(dw + c * s.out + o * kLanes, sums[c][o]);
  }
}

// All of dw; columns and channels of a window's row lie side by side, so they are counted as one.
template <int IN, int OUT>
void gradient_tiles(const Shape& s, int64_t rows, const float* padded, const float* dy, float* dw, int64_t outputs) {
  for (int64_t i = 0; i < s.kernel_height; ++i, padded += s.padded_row()) {
    int64_t c = 0;
    const auto at = [&](auto tile, int in) {
      for (; c + in <= s.kernel_row(); c += in, dw += in * s.out) {
        for (int64_t o = 0; o < outputs; o += OUT * kLanes) tile(s, rows, padded + c, dy + o, dw + o);
      }
    };
    at(gradient_tile<IN, OUT>, IN);
    at(gradient_tile<1, OUT>, 1);
  }
}

// Adds what one image adds to dw.
inline void add_gradient(const Shape& s, const float* x, const float* dy, float* dw, float* scratch) {
  constexpr int64_t kRows = 4;  // of y at a time: what the windows of 32 pixels by 16 channels read stays in a first cache
  pad(s, x, scratch);
  const int64_t in_pairs = s.out / (2 * kLanes) * (2 * kLanes);
  for (int64_t i = 0; i < s.out_height; i += kRows) {
    const int64_t rows = std::min(kRows, s.out_height - i);
    const float* from = scratch + i * s.stride * s.padded_row();
    const float* d = dy + i * s.out_width * s.out;
    if (in_pairs) gradient_tiles<kTile / 2, 2>(s, rows, from, d, dw, in_pairs);
    if (in_pairs < s.out) gradient_tiles<kTile, 1>(s, rows, from, d + in_pairs, dw + in_pairs, s.out - in_pairs);
  }
}

}  // namespace simd
