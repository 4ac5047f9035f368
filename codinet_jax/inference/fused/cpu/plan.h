// A routed ResNet as the kernel for CPUs is told of it: shapes, from a list of integers, and where their weights are.
//
// `_plan` and `pack` of this folder's __init__.py write what is read here, in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "simd/kernel.h"

namespace routed {

constexpr int64_t kGroup = simd::kChannels;  // output channels whose weights lie together
constexpr int64_t kBorder = 1;               // of zeros, around an activation

// Padded by half a kernel on each side. Weights [O / 16][kernel][kernel][C][16].
struct Conv {
  int64_t kernel, stride, in, out;
  const float *weights, *bias;
};

// A layer [C][Y] and its bias [Y].
struct Dense {
  int64_t in, out;
  const float *weights, *bias;
};

enum class Shortcut : int64_t { kIdentity, kPad, kProjection };

struct Block {
  Shortcut shortcut;
  int64_t stride;
  std::vector<Conv> convs;
  Conv projection;
  Dense hidden, decide;  // `decide` is of the margin between run and skip
};

// What follows a stage of a network that answers early and resumes: its end is kept; the first answer is given; what the
// next stage reads is joined of a kept end and, but for the first time, of this one.
struct End {
  int64_t after;  // so many blocks
  bool keeps, answers, joins, goes_down;
  Dense head;
  float bias;  // of the first answer's margin
  int64_t kept;
  Conv join, down;
};

enum class Deciding : int64_t { kNobody, kRouters, kFirstAnswer };

struct Network {
  int64_t image_size, image_channels, num_classes;
  Deciding deciding;
  bool pools;  // 3x3, stride 2, after the stem
  Conv stem;
  std::vector<Block> blocks;
  std::vector<End> ends;
  Dense head;
  int64_t num_kept = 0;
  int64_t most_numbers = 0, most_channels = 0;  // of an activation, its border among them
};

// So many numbers, and what is left of the last cache line: no vector lies in two of them.
inline int64_t aligned(int64_t count) { return (count + kGroup - 1) / kGroup * kGroup; }

inline int64_t strided(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }

// Shapes are taken as they are; whether weights are of that network is looked at.
class Reader {
 public:
  Reader(const int64_t* plan, const float* weights, int64_t num_weights)
      : plan_(plan), weights_(weights), left_(num_weights) {}

  // Fills a network; says whether there were just as many weights.
  bool read(Network& net) {
    net.image_size = next(), net.image_channels = next(), net.num_classes = next();
    net.deciding = static_cast<Deciding>(next());
    net.pools = next();
    size_ = net.image_size;
    net.stem = conv(net, net.image_channels);
    if (net.pools) size_ = strided(size_, 2);
    for (int64_t left = next(); left > 0; --left) {
      if (next()) {
        net.ends.push_back(end(net));
      } else {
        net.blocks.push_back(block(net));
      }
    }
    net.head = dense(channels_, net.num_classes);
    return left_ == 0;
  }

 private:
  Block block(Network& net) {
    const int64_t in = channels_, in_size = size_;
    Block block{};
    block.shortcut = static_cast<Shortcut>(next());
    if (net.deciding == Deciding::kRouters) block.hidden = dense(in, in), block.decide = dense(in, 1);
    block.stride = 1;
    for (int64_t left = next(); left > 0; --left) {
      block.convs.push_back(conv(net, channels_));
      block.stride = std::max(block.stride, block.convs.back().stride);
    }
    if (block.shortcut == Shortcut::kProjection) {
      size_ = in_size;
      block.projection = conv(net, in);
    }
    return block;
  }

  End end(Network& net) {
    End end{};
    end.after = static_cast<int64_t>(net.blocks.size());
    end.keeps = next(), end.answers = next(), end.joins = next(), end.goes_down = next();
    if (end.keeps) kept_.push_back({size_, channels_}), ++net.num_kept;
    if (end.answers) end.head = dense(channels_, net.num_classes), end.bias = *take(1);
    if (end.joins) {
      end.kept = next();
      if (end.goes_down) end.down = conv(net, channels_);
      std::tie(size_, channels_) = kept_[end.kept];
      end.join = conv(net, channels_);
    }
    return end;
  }

  int64_t next() { return *plan_++; }

  // Where so many weights are; if there are not so many, somewhere else, from where one at most is read.
  const float* take(int64_t count) {
    static const float none = 0;
    left_ -= aligned(count);
    return left_ < 0 ? &none : std::exchange(weights_, weights_ + aligned(count));
  }

  Dense dense(int64_t in, int64_t out) {
    const float* weights = take(in * out);
    return {in, out, weights, take(out)};
  }

  Conv conv(Network& net, int64_t in) {
    Conv conv{next(), next(), in, next(), nullptr, nullptr};
    conv.weights = take(conv.kernel * conv.kernel * in * conv.out), conv.bias = take(conv.out);
    channels_ = conv.out, size_ = strided(size_, conv.stride);
    const int64_t side = size_ + 2 * kBorder;
    net.most_numbers = std::max(net.most_numbers, side * side * channels_);
    net.most_channels = std::max(net.most_channels, channels_);
    return conv;
  }

  const int64_t* plan_;
  const float* weights_;
  int64_t left_, size_ = 0, channels_ = 0;
  std::vector<std::pair<int64_t, int64_t>> kept_;  // sizes and channels
};

}  // namespace routed
