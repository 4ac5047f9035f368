// A whole routed ResNet on one image, by one thread of a CPU; a skipped block is a branch.
//
// Activations lie among a border of zeros, so that a window is read where it is, and a block that keeps the image's shape
// works in place. Bias, sum and ReLU are done while a tile of sums is in registers.
#pragma once

#include <cmath>
#include <limits>

#include "plan.h"

namespace routed {

using simd::kLanes, simd::load, simd::store, simd::Vector;

// [size + 2 border][size + 2 border][channels]
struct Image {
  float* at;
  int64_t size, channels, border;

  int64_t pitch() const { return (size + 2 * border) * channels; }
  int64_t numbers() const { return (size + 2 * border) * pitch(); }
  float* row(int64_t y) const { return at + (y + border) * pitch() + border * channels; }
};

inline Vector relu(Vector v) { return v > 0 ? v : Vector{}; }

enum class Then { kNothing, kRelu, kAddAndRelu };  // what is done with a sum and its bias; added is to what is there

inline void convolve(const Conv& conv, const Image& from, const Image& to, Then then) {
  const int64_t group = conv.kernel * conv.kernel * conv.in * kGroup, first = -(conv.kernel / 2);
  const simd::Windows windows = {to.size,
                                 to.size,
                                 conv.kernel,
                                 conv.kernel * conv.in,
                                 from.pitch(),
                                 conv.stride * conv.in,
                                 conv.stride * from.pitch(),
                                 kGroup,
                                 kLanes < kGroup ? kLanes : group};
  simd::output_all(
      windows, conv.out / kLanes, from.row(first) + first * from.channels,
      [&](int64_t v) { return conv.weights + v * kLanes / kGroup * group + v * kLanes % kGroup; },
      [&](int64_t y, int64_t x, int64_t v, Vector sum) {
        float* at = to.row(y) + x * to.channels + v * kLanes;
        sum += load(conv.bias + v * kLanes);
        if (then == Then::kAddAndRelu) sum += load(at);
        store(at, then == Then::kNothing ? sum : relu(sum));
      });
}

// Of every row fn(row, numbers).
template <class Fn>
void each_row(const Image& image, Fn fn) {
  for (int64_t y = 0; y < image.size; ++y) fn(image.row(y), image.size * image.channels);
}

inline void relu(const Image& image) {
  each_row(image, [](float* row, int64_t numbers) {
    for (int64_t i = 0; i < numbers; ++i) row[i] = std::max(row[i], 0.0f);
  });
}

inline void zero(const Image& image) {
  each_row(image, [](float* row, int64_t numbers) { std::fill(row, row + numbers, 0.0f); });
}

inline void copy(const Image& from, const Image& to) {
  for (int64_t y = 0; y < from.size; ++y) std::copy_n(from.row(y), from.size * from.channels, to.row(y));
}

// Every so-many-th pixel, its channels in the middle of zeros: He et al.'s option A.
inline void subsample(const Image& from, int64_t stride, const Image& to) {
  const int64_t before = (to.channels - from.channels) / 2;
  zero(to);
  for (int64_t y = 0; y < to.size; ++y) {
    for (int64_t x = 0; x < to.size; ++x) {
      std::copy_n(from.row(y * stride) + x * stride * from.channels, from.channels, to.row(y) + x * to.channels + before);
    }
  }
}

// 3x3, stride 2. What was ReLU's is not below the border's zeros.
inline void max_pool(const Image& from, const Image& to) {
  for (int64_t y = 0; y < to.size; ++y) {
    for (int64_t x = 0; x < to.size; ++x) {
      float* out = to.row(y) + x * to.channels;
      std::fill(out, out + to.channels, 0.0f);
      for (int64_t i = 2 * y - 1; i <= 2 * y + 1; ++i) {
        // An even size has its last window end within the image, an odd one at the border.
        const float* in = from.row(i) + (2 * x - 1) * from.channels;
        for (int64_t j = 0; j < 3; ++j, in += from.channels) {
          for (int64_t c = 0; c < to.channels; ++c) out[c] = std::max(out[c], in[c]);
        }
      }
    }
  }
}

inline void mean(const Image& image, float* z) {
  constexpr int kSums = 4;  // of every fourth pixel, so that none waits for the one before
  const float share = 1.0f / static_cast<float>(image.size * image.size);
  for (int64_t c = 0; c < image.channels; c += kLanes) {
    Vector sums[kSums] = {};
    for (int64_t y = 0; y < image.size; ++y) {
      const float* at = image.row(y) + c;
      int64_t x = 0;
      for (; x + kSums <= image.size; x += kSums) {
        for (int i = 0; i < kSums; ++i, at += image.channels) sums[i] += load(at);
      }
      for (; x < image.size; ++x, at += image.channels) sums[0] += load(at);
    }
    store(z + c, (sums[0] + sums[1] + (sums[2] + sums[3])) * share);
  }
}

inline void apply(const Dense& layer, const float* x, float* y) {
  std::copy_n(layer.bias, layer.out, y);
  const float* w = layer.weights;
  for (int64_t i = 0; i < layer.in; ++i, w += layer.out) {
    for (int64_t o = 0; o < layer.out; ++o) y[o] += x[i] * w[o];
  }
}

// The logit of 1 less the largest probability.
inline float unsureness(const float* logits, int64_t num_classes) {
  const int64_t likeliest = std::max_element(logits, logits + num_classes) - logits;
  float second = -std::numeric_limits<float>::infinity(), others = 0;
  for (int64_t i = 0; i < num_classes; ++i) {
    if (i != likeliest) second = std::max(second, logits[i]);
  }
  for (int64_t i = 0; i < num_classes; ++i) {
    if (i != likeliest) others += std::exp(logits[i] - second);
  }
  return second + std::log(others) - logits[likeliest];
}

constexpr float kForcedMargin = 30;  // `models.router.FORCED_MARGIN`

// An image's way through a network, in memory of a thread: `scratch`, at the beginning of a cache line, has room for
// `numbers(net)`.
class Pass {
 public:
  static int64_t numbers(const Network& net) {
    return aligned(input(net, nullptr).numbers()) + (kImages + net.num_kept) * net.most_numbers + 2 * net.most_channels;
  }

  Pass(const Network& net, float* scratch) : net_(net), input_(input(net, scratch)) {
    scratch += aligned(input_.numbers());
    for (int64_t i = 0; i < kImages + net.num_kept; ++i, scratch += net.most_numbers) {
      images_.push_back({scratch, 0, 0, kBorder});
    }
    z_ = scratch, hidden_ = scratch + net.most_channels;
    first_.resize(net.num_classes);
    std::fill(input_.at, input_.at + input_.numbers(), 0.0f);
  }

  // `image` [H][W][C]; `pixels` [256][C], what it is of; `noise` [n][2] or null. Writes logits [Y] and v [n].
  void run(const uint8_t* image, const float* pixels, float threshold, const float* noise, float* logits, float* v) {
    begin(image, pixels);
    margin_ = kForcedMargin, noise_ = noise;
    const int64_t num_blocks = static_cast<int64_t>(net_.blocks.size());
    auto end = net_.ends.begin();
    for (int64_t k = 0; k < num_blocks; ++k) {
      const Block& block = net_.blocks[k];
      if (net_.deciding == Deciding::kRouters) margin_ = margin_of(block);
      v[k] = gate(k);
      compute(block, net_.deciding == Deciding::kNobody || v[k] >= threshold);
      if (end != net_.ends.end() && end->after == k + 1) {
        finish(*end);
        if (end->joins) join(*end, gate(k + 1) >= threshold);
        ++end;
      }
    }
    apply(net_.head, pooled(), logits);
    if (net_.deciding == Deciding::kFirstAnswer && v[num_blocks - 1] < threshold) {
      std::copy(first_.begin(), first_.end(), logits);
    }
  }

 private:
  static constexpr int64_t kImages = 4;  // what a block reads, what it writes, and two between its convolutions

  static Image input(const Network& net, float* at) {
    return {at, net.image_size, net.image_channels, net.stem.kernel / 2};
  }

  // The i-th image, of such a shape, among zeros.
  Image& shaped(int64_t i, int64_t size, int64_t channels) {
    Image& image = images_[i];
    if (image.size != size || image.channels != channels) {
      image.size = size, image.channels = channels;
      std::fill(image.at, image.at + image.numbers(), 0.0f);
    }
    return image;
  }

  Image& a() { return images_[0]; }

  // What was written becomes what is read.
  void advance() {
    std::swap(images_[0], images_[1]);
    is_pooled_ = false;
  }

  const float* pooled() {
    if (!is_pooled_) mean(a(), z_);
    is_pooled_ = true;
    return z_;
  }

  void begin(const uint8_t* image, const float* pixels) {
    const int64_t channels_in = net_.image_channels;
    for (int64_t y = 0; y < net_.image_size; ++y) {
      float* to = input_.row(y);
      for (int64_t x = 0; x < net_.image_size; ++x) {
        for (int64_t c = 0; c < channels_in; ++c) *to++ = pixels[*image++ * channels_in + c];
      }
    }
    const int64_t size = strided(net_.image_size, net_.stem.stride), channels = net_.stem.out;
    Image& stem = shaped(net_.pools ? 2 : 1, size, channels);
    convolve(net_.stem, input_, stem, Then::kRelu);
    if (net_.pools) max_pool(stem, shaped(1, strided(size, 2), channels));
    advance();
  }

  float margin_of(const Block& block) {
    apply(block.hidden, pooled(), hidden_);
    float margin = *block.decide.bias;
    for (int64_t i = 0; i < block.decide.in; ++i) margin += std::max(hidden_[i], 0.0f) * block.decide.weights[i];
    return margin;
  }

  float gate(int64_t k) const {
    if (net_.deciding == Deciding::kNobody) return 1;
    const float margin = noise_ ? margin_ + (noise_[2 * k + 1] - noise_[2 * k]) : margin_;
    return 1 / (1 + std::exp(-margin));
  }

  void compute(const Block& block, bool runs) {
    const bool in_place = block.shortcut == Shortcut::kIdentity;
    if (in_place && !runs) return;
    if (!in_place) take_shortcut(block);
    if (!runs) {
      relu(images_[1]);
      return advance();
    }
    Image* from = &a();
    const size_t last = block.convs.size() - 1;
    for (size_t i = 0; i < last; ++i) {
      Image& to = shaped(2 + i % 2, strided(from->size, block.convs[i].stride), block.convs[i].out);
      convolve(block.convs[i], *from, to, Then::kRelu);
      from = &to;
    }
    convolve(block.convs[last], *from, images_[in_place ? 0 : 1], Then::kAddAndRelu);
    if (!in_place) advance();
    is_pooled_ = false;
  }

  void take_shortcut(const Block& block) {
    Image& to = shaped(1, strided(a().size, block.stride), block.convs.back().out);
    if (block.shortcut == Shortcut::kPad) {
      subsample(a(), block.stride, to);
    } else {
      convolve(block.projection, a(), to, Then::kNothing);
    }
  }

  void finish(const End& end) {
    if (end.keeps) {
      copy(a(), shaped(kImages + num_kept_, a().size, a().channels));
      num_kept_ = (num_kept_ + 1) % net_.num_kept;
    }
    if (end.answers) {
      apply(end.head, pooled(), first_.data());
      margin_ = unsureness(first_.data(), net_.num_classes) + end.bias;
    }
  }

  void join(const End& end, bool goes_on) {
    const Image& kept = images_[kImages + end.kept];
    Image& to = shaped(1, kept.size, kept.channels);
    if (!goes_on) {
      zero(to);
    } else if (end.goes_down) {
      convolve(end.down, a(), to, Then::kNothing);
      convolve(end.join, kept, to, Then::kAddAndRelu);
    } else {
      convolve(end.join, kept, to, Then::kRelu);
    }
    advance();
  }

  const Network& net_;
  const Image input_;
  std::vector<Image> images_;
  std::vector<float> first_;
  float *z_, *hidden_;
  const float* noise_ = nullptr;
  float margin_ = 0;
  int64_t num_kept_ = 0;
  bool is_pooled_ = false;
};

}  // namespace routed
