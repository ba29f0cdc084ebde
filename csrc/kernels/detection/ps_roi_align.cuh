// The kernel of ps_roi_align: the direct one of roi_align, where each bin has a channel of its own.
#pragma once

#include "kernels/detection/roi_align_direct.cuh"

namespace bridge {

template <class T>
__global__ void __launch_bounds__(kRoiAlignThreads) ps_roi_align_kernel(RoiAlignArguments<T> a) {
  int const bins = a.bins();
  int64_t const items = a.count * a.channels;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    RoiRegion region = roi_region(a, i / a.channels);
    // torchvision's mean of no samples is NaN, of an empty or reversed region: share * 0.
    region.share = __fdiv_rn(1.f, __fmul_rn(region.y.samples, region.x.samples));
    // The channels of x stand in the order of a region's results: [channels / bins, pooled_h, pooled_w].
    a.y[i] = from_float<T>(roi_align_value(a, region, i % a.channels, static_cast<int>(i % bins)));
  }
}

template <class T>
cudaError_t launch_ps_roi_align(RoiAlignArguments<T> const& a, cudaStream_t stream) {
  if (a.count == 0 || a.channels == 0) return cudaSuccess;
  int64_t const blocks = ceil_divide(a.count * a.channels, kRoiAlignThreads);
  auto const grid = static_cast<unsigned>(std::min(blocks, kRoiAlignMaxGrid));
  ps_roi_align_kernel<<<grid, kRoiAlignThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
