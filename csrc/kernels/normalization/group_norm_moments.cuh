// Means and variances of groups in float32. A thread sums differences from its own first value, so that a large mean
// does not cancel the variance; what threads, blocks and launches found is merged by the formula of Chan, Golub and
// LeVeque (1979, https://doi.org/10.1007/978-3-642-51461-6_3).
#pragma once

#include "kernels/common/vec.cuh"

namespace bridge {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

// Of a set of values: their number, their mean, and the sum of squared differences from it.
struct Moments {
  float count, mean, squares;
};

__device__ inline Moments merged(Moments a, Moments b) {
  float const count = a.count + b.count, apart = b.mean - a.mean;
  float const share = count > 0.f ? __fdividef(b.count, count) : 0.f;
  return {count, fmaf(apart, share, a.mean), a.squares + b.squares + apart * apart * (a.count * share)};
}

// Sums over the values of one thread. shift: the first of them.
class MomentSums {
 public:
  __device__ explicit MomentSums(float shift = 0.f) : shift_(shift) {}
  __device__ void add(float value) {
    float const apart = value - shift_;
    sum_ += apart;
    squares_ = fmaf(apart, apart, squares_);
  }
  __device__ Moments moments(unsigned count) const {
    if (count == 0) return {0.f, 0.f, 0.f};
    float const apart = sum_ / float(count), squares = squares_ - sum_ * apart;
    return {float(count), shift_ + apart, squares < 0.f ? 0.f : squares};  // NaN stays
  }

 private:
  float shift_, sum_ = 0.f, squares_ = 0.f;
};

// How many of the numbers from `first` to `end` a thread has that takes every `step`th.
__device__ inline unsigned stepped(unsigned first, unsigned end, unsigned step) {
  return first < end ? (end - first - 1) / step + 1 : 0;
}

// In the first lane, those of the warp.
__device__ inline Moments warp_moments(Moments own) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    Moments const other{__shfl_down_sync(kAllLanes, own.count, step), __shfl_down_sync(kAllLanes, own.mean, step),
                        __shfl_down_sync(kAllLanes, own.squares, step)};
    own = merged(own, other);
  }
  return own;
}

// In the first thread, those of the block, whose threads fill warps; shared: [32].
__device__ inline Moments block_moments(Moments own, Moments* shared) {
  int const lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  own = warp_moments(own);
  if (lane == 0) shared[warp] = own;
  __syncthreads();
  if (warp == 0) own = warp_moments(lane < warps ? shared[lane] : Moments{0.f, 0.f, 0.f});
  return own;
}

// What a group's values are normalised by.
struct Normal {
  float mean, scale;
};

__device__ inline Normal normal_of(Moments moments, float eps) {
  return {moments.mean, rsqrtf(moments.squares / moments.count + eps)};
}

// To all threads of the block, from the first one; shared: one.
__device__ inline Normal to_all(Normal first, Normal* shared) {
  if (threadIdx.x == 0) *shared = first;
  __syncthreads();
  return *shared;
}

}  // namespace bridge
