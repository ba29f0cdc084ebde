// Where a region of interest is sampled (He et al., https://arxiv.org/abs/1703.06870, section 3, with torchvision's
// conventions at the borders). A bin averages the samples of a regular grid; bilinear weights, what lies beyond the map
// and the grid itself are products of an axis's own, so that a bin is the sum over taps of y, and over taps of x, of
// weight_y * weight_x * pixel. Rounding is spelt out: the compiler fuses nothing, and coordinates are the reference's.
#pragma once

#include "core/dtype.h"
#include "kernels/common/vec.cuh"

namespace bridge {

// Of a region's adaptive grid: beyond it float32 does not tell samples apart, and the region counts as not finite.
constexpr float kRoiAlignMostSamples = 1 << 24;

template <class T>
struct RoiAlignArguments {
  T const* x;        // [batch, channels, height, width], or [batch, height, width, channels] where channels_last
  void const* rois;  // [count, 5] of roi_dtype: image, x1, y1, x2, y2
  T* y;              // [count, channels, pooled_h, pooled_w]
  DType roi_dtype;
  int64_t batch, count;
  int channels, height, width, pooled_h, pooled_w;
  int sampling_ratio;  // samples of a bin along an axis; 0: as many as pixels
  float spatial_scale;
  bool aligned, channels_last;

  __host__ __device__ int bins() const { return pooled_h * pooled_w; }
  __host__ __device__ int64_t plane() const { return int64_t(height) * width; }
  // Elements of x from an image, a channel, a pixel to the next one.
  __host__ __device__ int64_t image_step() const { return channels * plane(); }
  __host__ __device__ int64_t channel_step() const { return channels_last ? 1 : plane(); }
  __host__ __device__ int pixel_step() const { return channels_last ? channels : 1; }
};

// The samples of a region along one axis: in a bin there are `samples`, `bin` / `samples` pixels apart. An adaptive
// number is not positive where the region is empty or reversed; there are none then.
struct RoiAxis {
  float start, bin, samples;
  int extent;
  bool adaptive;

  __device__ bool finite() const {
    return isfinite(start) && isfinite(bin) && (!adaptive || samples <= kRoiAlignMostSamples);
  }
  // Samples of an adaptive grid are more than half a pixel apart: no more than these lie on the map.
  __device__ int most() const { return 2 * min(extent, 1 << 24) + 8; }  // there are no more than 2^24
  __device__ bool skips() const { return adaptive && samples > float(most()); }
  // The samples of a bin that are looked at are `count`, from `first` on; of any bin they are `longest` at most.
  __device__ int longest() const { return skips() ? most() : static_cast<int>(fmaxf(samples, 0.f)); }
  __device__ int count(int place) const { return min(longest(), static_cast<int>(fmaxf(samples - first(place), 0.f))); }
  __device__ float first(int place) const {
    if (!skips()) return 0.f;
    float const before = (-1.f - __fadd_rn(start, __fmul_rn(float(place), bin))) * samples / bin;
    return fmaxf(floorf(before) - 2.f, 0.f);
  }
  __device__ float position(int place, float sample) const {
    float const left = __fadd_rn(start, __fmul_rn(float(place), bin));
    return __fadd_rn(left, __fdiv_rn(__fmul_rn(__fadd_rn(sample, 0.5f), bin), samples));
  }
};

// Two neighbouring pixels of an axis, and what they count; a weight of 0 stands for a pixel that does not.
struct RoiSample {
  int low;
  float low_weight, high_weight;
};

__device__ inline RoiSample roi_sample(float position, int extent) {
  if (position < -1.f || position > float(extent)) return {0, 0.f, 0.f};
  float const inside = fmaxf(position, 0.f);
  int const low = static_cast<int>(inside);
  if (low >= extent - 1) return {extent - 1, 1.f, 0.f};
  float const part = __fsub_rn(inside, float(low));
  return {low, __fsub_rn(1.f, part), part};
}

struct RoiRegion {
  int image;  // -1: the result is NaN
  RoiAxis y, x;
  float share;  // of a sample in the mean of a bin
};

// A number of rois, of which the arguments say where they are and their dtype.
template <class Arguments>
__device__ float roi_value(Arguments const& a, int64_t index) {
  switch (a.roi_dtype) {
    case DType::kFloat16:
      return to_float(static_cast<half const*>(a.rois)[index]);
    case DType::kBFloat16:
      return to_float(static_cast<bfloat16 const*>(a.rois)[index]);
    default:
      return static_cast<float const*>(a.rois)[index];
  }
}

__device__ inline RoiAxis roi_axis(float low, float high, float scale, bool aligned, int pooled, int sampling_ratio,
                                   int extent) {
  float const offset = aligned ? 0.5f : 0.f;
  float const start = __fsub_rn(__fmul_rn(low, scale), offset), end = __fsub_rn(__fmul_rn(high, scale), offset);
  float const length = __fsub_rn(end, start);
  float const bin = __fdiv_rn(aligned ? length : fmaxf(length, 1.f), float(pooled));
  bool const adaptive = sampling_ratio <= 0;
  // The largest of NaN and 1 is 1: what is not finite must stay so.
  return {start, isfinite(length) ? bin : length, adaptive ? ceilf(bin) : float(sampling_ratio), extent, adaptive};
}

template <class T>
__device__ RoiRegion roi_region(RoiAlignArguments<T> const& a, int64_t roi) {
  float value[5];
#pragma unroll
  for (int i = 0; i < 5; ++i) value[i] = roi_value(a, roi * 5 + i);
  RoiRegion region{-1, roi_axis(value[2], value[4], a.spatial_scale, a.aligned, a.pooled_h, a.sampling_ratio, a.height),
                   roi_axis(value[1], value[3], a.spatial_scale, a.aligned, a.pooled_w, a.sampling_ratio, a.width),
                   1.f};
  bool const finite = value[0] > -1.f && value[0] < float(a.batch) && region.y.finite() && region.x.finite();
  if (finite) region.image = static_cast<int>(value[0]);
  region.share = __fdiv_rn(1.f, fmaxf(__fmul_rn(region.y.samples, region.x.samples), 1.f));
  return region;
}

}  // namespace bridge
