// The kernel of roi_pool: a thread computes outputs, each by itself.
#pragma once

#include <cfloat>

#include "kernels/detection/roi_windows.cuh"

namespace bridge {

// The largest pixel of a window of a map [height, width]; NaN is none.
template <class T>
__device__ float roi_pool_value(T const* map, RoiWindow const& window, int width) {
  if (window.image < 0) return nanf("");
  if (window.empty()) return 0.f;
  float largest = -FLT_MAX;
  for (int row = window.row; row < window.row_end; ++row) {
    T const* const line = map + int64_t(row) * width;
    for (int column = window.column; column < window.column_end; ++column) {
      largest = fmaxf(largest, to_float(line[column]));
    }
  }
  return largest;
}

template <class T>
__global__ void __launch_bounds__(kRoiPoolThreads) roi_pool_kernel(RoiPoolArguments<T> a) {
  int const bins = a.bins();
  int64_t const items = a.items();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    RoiWindow const window = roi_window(a, i / bins / a.channels, static_cast<int>(i % bins), 1.f, 0);
    T const* const map = a.map(max(window.image, int64_t(0)), static_cast<int>(i / bins % a.channels));
    a.y[i] = from_float<T>(roi_pool_value(map, window, a.width));
  }
}

template <class T>
cudaError_t launch_roi_pool(RoiPoolArguments<T> const& a, cudaStream_t stream) {
  return launch_roi_pool_kernel(roi_pool_kernel<T>, a, stream);
}

}  // namespace bridge
