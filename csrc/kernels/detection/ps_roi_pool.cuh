// The kernel of ps_roi_pool: a thread computes outputs, each by itself, from the channel of its bin.
#pragma once

#include "kernels/detection/roi_windows.cuh"

namespace bridge {

// The mean of a window of a map [height, width].
template <class T>
__device__ float ps_roi_pool_value(T const* map, RoiWindow const& window, int width) {
  if (window.image < 0) return nanf("");
  if (window.empty()) return 0.f;
  float sum = 0.f;
  for (int row = window.row; row < window.row_end; ++row) {
    T const* const line = map + int64_t(row) * width;
    float line_sum = 0.f;  // apart from the sum: of many pixels the sum of all would round much
    for (int column = window.column; column < window.column_end; ++column) line_sum += to_float(line[column]);
    sum += line_sum;
  }
  float const pixels = float(window.row_end - window.row) * float(window.column_end - window.column);
  return __fdiv_rn(sum, pixels);
}

template <class T>
__global__ void __launch_bounds__(kRoiPoolThreads) ps_roi_pool_kernel(RoiPoolArguments<T> a) {
  int const bins = a.bins();
  int64_t const items = a.items(), pooled = int64_t(a.channels_out) * bins;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    RoiWindow const window = roi_window(a, i / pooled, static_cast<int>(i % bins), 0.f, 1);
    // The channels of x stand in the order of a region's results: [channels_out, pooled_h, pooled_w].
    T const* const map = a.map(max(window.image, int64_t(0)), static_cast<int>(i % pooled));
    a.y[i] = from_float<T>(ps_roi_pool_value(map, window, a.width));
  }
}

template <class T>
cudaError_t launch_ps_roi_pool(RoiPoolArguments<T> const& a, cudaStream_t stream) {
  return launch_roi_pool_kernel(ps_roi_pool_kernel<T>, a, stream);
}

}  // namespace bridge
