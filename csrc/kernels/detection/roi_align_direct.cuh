// The kernel of roi_align that takes every call: a thread computes outputs, each by itself, sample by sample. What the
// kernels with tables fall back on, and their oracle.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/detection/roi_align_geometry.cuh"

namespace bridge {

constexpr int kRoiAlignThreads = 256;
constexpr int64_t kRoiAlignMaxGrid = std::numeric_limits<int32_t>::max();

// One bin of one channel.
template <class T>
__device__ float roi_align_bin(RoiAlignArguments<T> const& a, RoiRegion const& region,
                               T const* map,  // [height, width], pixel_step apart
                               int row, int column) {
  float sum = 0.f;
  float const first_y = region.y.first(row), first_x = region.x.first(column);
  int const count_y = region.y.count(row), count_x = region.x.count(column);
  for (int iy = 0; iy < count_y; ++iy) {
    RoiSample const y = roi_sample(region.y.position(row, first_y + float(iy)), a.height);
    float line = 0.f;  // apart from the sum: of many samples the sum of all would round much
    for (int ix = 0; ix < count_x; ++ix) {
      RoiSample const x = roi_sample(region.x.position(column, first_x + float(ix)), a.width);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float const weight = (i / 2 ? y.high_weight : y.low_weight) * (i % 2 ? x.high_weight : x.low_weight);
        int64_t const pixel = int64_t(y.low + i / 2) * a.width + x.low + i % 2;
        if (weight != 0.f) line += weight * to_float(map[pixel * a.pixel_step()]);
      }
    }
    sum += line;
  }
  return sum * region.share;
}

template <class T>
__device__ float roi_align_value(RoiAlignArguments<T> const& a, RoiRegion const& region, int64_t channel, int bin) {
  if (region.image < 0) return nanf("");
  T const* const map = a.x + region.image * a.image_step() + channel * a.channel_step();
  return roi_align_bin(a, region, map, bin / a.pooled_w, bin % a.pooled_w);
}

template <class T>
__global__ void __launch_bounds__(kRoiAlignThreads) roi_align_direct_kernel(RoiAlignArguments<T> a) {
  int64_t const bins = a.bins(), items = a.count * a.channels * bins;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    RoiRegion const region = roi_region(a, i / bins / a.channels);
    a.y[i] = from_float<T>(roi_align_value(a, region, i / bins % a.channels, static_cast<int>(i % bins)));
  }
}

template <class T>
cudaError_t launch_roi_align_direct(RoiAlignArguments<T> const& a, cudaStream_t stream) {
  int64_t const blocks = ceil_divide(a.count * a.channels * a.bins(), kRoiAlignThreads);
  auto const grid = static_cast<unsigned>(std::min(blocks, kRoiAlignMaxGrid));
  roi_align_direct_kernel<<<grid, kRoiAlignThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
