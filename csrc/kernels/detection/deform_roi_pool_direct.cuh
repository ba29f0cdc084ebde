// Deformable pooling of regions (Dai et al., https://arxiv.org/abs/1703.06211, section 2.2): roi_align whose bins move
// by offsets. The kernel of any call: a thread computes a run of channels of one bin, whose samples it finds once.
#pragma once

#include <algorithm>

#include "kernels/detection/roi_align_geometry.cuh"

namespace bridge {

constexpr int kDeformRoiThreads = 256, kDeformRoiChannels = 8;

template <class T>
struct DeformRoiPoolArguments : RoiAlignArguments<T> {
  void const* offset;  // [count, 2, pooled_h, pooled_w] of offset_dtype, along x and then along y; or null
  DType offset_dtype;
  float gamma;

  // How far a bin moves along an axis, as a share of the region's extent.
  __device__ float share(int64_t roi, int axis, int bin) const {
    if (!offset) return 0.f;
    int64_t const index = (roi * 2 + axis) * this->bins() + bin;
    float value = 0.f;
    switch (offset_dtype) {
      case DType::kFloat16:
        value = to_float(static_cast<half const*>(offset)[index]);
        break;
      case DType::kBFloat16:
        value = to_float(static_cast<bfloat16 const*>(offset)[index]);
        break;
      default:
        value = static_cast<float const*>(offset)[index];
    }
    return __fmul_rn(gamma, value);
  }
};

// Moves the bins of an axis; false: by what is not finite.
__device__ inline bool moved(RoiAxis& axis, float share, float low, float high, float scale) {
  float const start = __fsub_rn(__fmul_rn(low, scale), 0.5f), end = __fsub_rn(__fmul_rn(high, scale), 0.5f);
  float const by = __fmul_rn(share, __fsub_rn(end, start));
  if (isfinite(by)) axis.start = __fadd_rn(axis.start, by);
  return isfinite(share);
}

// Moves the bins of a region as one of them is moved; false: the result is NaN.
template <class T>
__device__ bool moved(DeformRoiPoolArguments<T> const& a, int64_t roi, int bin, RoiRegion& region) {
  float const left = roi_value(a, roi * 5 + 1), right = roi_value(a, roi * 5 + 3);
  float const top = roi_value(a, roi * 5 + 2), bottom = roi_value(a, roi * 5 + 4);
  bool const by_x = moved(region.x, a.share(roi, 0, bin), left, right, a.spatial_scale);
  bool const by_y = moved(region.y, a.share(roi, 1, bin), top, bottom, a.spatial_scale);
  return region.image >= 0 && by_x && by_y;
}

// Adds weight times kLanes channels at a pixel. kLast: they lie side by side.
template <class T, bool kLast, int kLanes>
__device__ void add_pixel(T const* pixel, int64_t channel_step, int channels, float weight, float (&sums)[kLanes]) {
  if (weight == 0.f) return;
  if constexpr (kLast) {
    using Packet = Vec<T, kLanes>;
    Packet const packet = *reinterpret_cast<Packet const*>(pixel);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] = fmaf(weight, to_float(packet.lane[lane]), sums[lane]);
  } else {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      if (lane < channels) sums[lane] = fmaf(weight, to_float(pixel[lane * channel_step]), sums[lane]);
  }
}

// The sums of a bin over its samples, of channels from `map` on.
template <class T, bool kLast>
__device__ void sum_bin(DeformRoiPoolArguments<T> const& a, RoiRegion const& region, T const* map, int channels,
                        int bin, float (&sums)[kDeformRoiChannels]) {
  int const row = bin / a.pooled_w, column = bin % a.pooled_w;
  float const first_y = region.y.first(row), first_x = region.x.first(column);
  int const count_y = region.y.count(row), count_x = region.x.count(column);
  for (int iy = 0; iy < count_y; ++iy) {
    RoiSample const y = roi_sample(region.y.position(row, first_y + float(iy)), a.height);
    float line[kDeformRoiChannels] = {};  // apart from the sums: of many samples the sum of all would round much
    for (int ix = 0; ix < count_x; ++ix) {
      RoiSample const x = roi_sample(region.x.position(column, first_x + float(ix)), a.width);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float const weight = (i / 2 ? y.high_weight : y.low_weight) * (i % 2 ? x.high_weight : x.low_weight);
        int64_t const pixel = int64_t(y.low + i / 2) * a.width + x.low + i % 2;
        add_pixel<T, kLast>(map + pixel * a.pixel_step(), a.channel_step(), channels, weight, line);
      }
    }
#pragma unroll
    for (int lane = 0; lane < kDeformRoiChannels; ++lane) sums[lane] += line[lane];
  }
}

// Items: with channels last, runs of channels first, then bins and regions; else bins first, then runs and regions.
// kPacked: a run's channels are read at once.
template <class T, bool kPacked>
__global__ void __launch_bounds__(kDeformRoiThreads) deform_roi_pool_kernel(DeformRoiPoolArguments<T> a) {
  int const bins = a.bins(), runs = (a.channels + kDeformRoiChannels - 1) / kDeformRoiChannels;
  int64_t const items = a.count * runs * bins;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    int64_t const roi = i / bins / runs;
    auto const rest = static_cast<int>(i % (int64_t(bins) * runs));
    int const bin = a.channels_last ? rest / runs : rest % bins, run = a.channels_last ? rest % runs : rest / bins;
    int const first = run * kDeformRoiChannels, channels = min(kDeformRoiChannels, a.channels - first);
    RoiRegion region = roi_region(a, roi);
    bool const known = moved(a, roi, bin, region);
    float sums[kDeformRoiChannels] = {};
    if (known) {
      T const* const map = a.x + region.image * a.image_step() + first * a.channel_step();
      sum_bin<T, kPacked>(a, region, map, channels, bin, sums);
    }
    T* y = a.y + (roi * a.channels + first) * bins + bin;
#pragma unroll
    for (int lane = 0; lane < kDeformRoiChannels; ++lane)
      if (lane < channels) y[int64_t(lane) * bins] = from_float<T>(known ? sums[lane] * region.share : nanf(""));
  }
}

template <class T>
cudaError_t launch_deform_roi_pool_direct(DeformRoiPoolArguments<T> const& a, cudaStream_t stream) {
  int64_t const runs = ceil_divide(a.channels, kDeformRoiChannels);
  int64_t const blocks = std::min(ceil_divide(a.count * runs * a.bins(), kDeformRoiThreads), kMaxGridX);
  bool const packed = a.channels_last && a.channels % kDeformRoiChannels == 0 && aligned(a.x);
  auto const kernel = packed ? deform_roi_pool_kernel<T, true> : deform_roi_pool_kernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), kDeformRoiThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
