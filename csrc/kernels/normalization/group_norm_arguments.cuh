// What the kernels of group_norm share: their arguments, and how a value becomes a result.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/normalization/group_norm_moments.cuh"

namespace bridge {

enum class Activation { kNone, kSilu, kRelu, kGelu };

template <class T>
struct GroupNormArguments {
  T const* x;                 // [batch, channels, places], or [batch, places, channels] where channels_last
  void const *weight, *bias;  // [channels], of T or float32; or null
  T* y;                       // as x
  bool wide_weight, wide_bias, channels_last;
  Activation activation;
  int64_t batch;
  int channels, groups, places;
  float eps;
  uint64_t of_places;  // reciprocal_of(places)

  __host__ __device__ int depth() const { return channels / groups; }  // channels of a group
  __host__ __device__ int size() const { return depth() * places; }    // values of a group
  __host__ __device__ int64_t rows() const { return batch * groups; }
  __device__ unsigned channel_of(unsigned i) const {  // of a group's value: i / places, without a division
    return static_cast<unsigned>(__umul64hi(uint64_t(i) << 1, of_places));
  }
};

// 2^63 / n, rounded up. Then (i * that) >> 63 is i / n for all of 32 bits: what is added to the quotient is less than
// i / 2^63 < 1 / n.
inline uint64_t reciprocal_of(int n) {
  auto const divisor = static_cast<uint64_t>(std::max(n, 1));
  return ((uint64_t(1) << 63) + divisor - 1) / divisor;
}

// How the values of a channel become results: (value - mean) * scale + shift. The mean is subtracted first: in a large
// one `value * scale` would lose what they differ by.
struct ChannelMap {
  float mean, scale, shift;

  __device__ float operator()(float value) const { return fmaf(value - mean, scale, shift); }
};

template <class T>
__device__ float channel_value(void const* values, bool wide, int channel, float otherwise) {
  if (!values) return otherwise;
  return wide ? static_cast<float const*>(values)[channel] : to_float(static_cast<T const*>(values)[channel]);
}

// Fetches weights and biases of a group to the caches, while its values are on their way.
template <class T>
__device__ void fetch_channels(GroupNormArguments<T> const& a, int first_channel) {
  auto const fetch = [](void const* values, size_t place) {
    unsigned value;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(value) : "l"(static_cast<char const*>(values) + place));
  };
  for (int channel = first_channel + threadIdx.x; channel < first_channel + a.depth(); channel += blockDim.x) {
    if (a.weight) fetch(a.weight, (a.wide_weight ? sizeof(float) : sizeof(T)) * channel);
    if (a.bias) fetch(a.bias, (a.wide_bias ? sizeof(float) : sizeof(T)) * channel);
  }
}

template <class T>
__device__ ChannelMap channel_map(GroupNormArguments<T> const& a, Normal normal, int channel) {
  return {normal.mean, normal.scale * channel_value<T>(a.weight, a.wide_weight, channel, 1.f),
          channel_value<T>(a.bias, a.wide_bias, channel, 0.f)};
}

__device__ inline float activated(float value, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return __fdividef(value, 1.f + __expf(-value));
    case Activation::kRelu:
      return value < 0.f ? 0.f : value;  // NaN stays
    case Activation::kGelu:
      return 0.5f * value * (1.f + erff(value * 0.70710678118654752f));
    default:
      return value;
  }
}

template <class T>
__device__ T result_of(float value, ChannelMap const& map, Activation activation) {
  return from_float<T>(activated(map(value), activation));
}

// Of several values. The activation is chosen once for all of them: chosen for each, it made code of hundreds of
// kilobytes, which a kernel runs through once.
template <class T, int kLanes>
__device__ Vec<T, kLanes> results_of(float (&values)[kLanes], Activation activation) {
  auto const apply = [&](Activation chosen) {
#pragma unroll
    for (float& value : values) value = activated(value, chosen);
  };
  if (activation == Activation::kSilu) apply(Activation::kSilu);
  if (activation == Activation::kRelu) apply(Activation::kRelu);
  if (activation == Activation::kGelu) apply(Activation::kGelu);
  Vec<T, kLanes> results;
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) results.lane[lane] = from_float<T>(values[lane]);
  return results;
}

// Hides from the compiler what a packet is, which else keeps values in float32 beside the packets they came from, and
// has no registers left.
template <class T, int kLanes>
__device__ void forget(Vec<T, kLanes>& packet) {
  if constexpr (sizeof(packet) % sizeof(uint32_t) == 0) {
    auto* words = reinterpret_cast<uint32_t*>(&packet);
#pragma unroll
    for (int i = 0; i < int(sizeof(packet) / sizeof(uint32_t)); ++i) asm volatile("" : "+r"(words[i]));
  }
}

// Normalises a packet of neighbouring values of a group. first: the place of the first one in the group.
template <class T, int kLanes>
__device__ Vec<T, kLanes> normalised(GroupNormArguments<T> const& a, Vec<T, kLanes> packet, Normal normal,
                                     int first_channel, unsigned first) {
  unsigned const channel = a.channel_of(first), left = (channel + 1) * a.places - first;  // values up to the next one
  float values[kLanes];
#pragma unroll
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = to_float(packet.lane[lane]);
  if (left >= kLanes) {
    ChannelMap const map = channel_map(a, normal, first_channel + static_cast<int>(channel));
#pragma unroll
    for (float& value : values) value = map(value);
  } else {
#pragma unroll 1
    for (int done = 0; done < kLanes; ++done) {  // the first one, which becomes the last one
      float const value = values[0];
#pragma unroll
      for (int lane = 0; lane + 1 < kLanes; ++lane) values[lane] = values[lane + 1];
      values[kLanes - 1] = channel_map(a, normal, first_channel + static_cast<int>(a.channel_of(first + done)))(value);
    }
  }
  return results_of<T>(values, a.activation);
}

}  // namespace bridge
