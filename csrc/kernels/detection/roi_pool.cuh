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

constexpr int kRoiPoolChannels = 8;  // of a thread, which finds their window once

// Items: bins first, then runs of channels, then regions.
template <class T>
__global__ void __launch_bounds__(kRoiPoolThreads) roi_pool_kernel(RoiPoolArguments<T> a) {
  int const bins = a.bins(), runs = (a.channels + kRoiPoolChannels - 1) / kRoiPoolChannels;
  int64_t const items = a.count * runs * bins;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += int64_t(gridDim.x) * blockDim.x) {
    int const bin = static_cast<int>(i % bins), first = static_cast<int>(i / bins % runs) * kRoiPoolChannels;
    int64_t const roi = i / bins / runs;
    RoiWindow const window = roi_window(a, roi, bin, 1.f, 0);
    T const* map = a.map(max(window.image, int64_t(0)), first);
    T* y = a.y + (roi * a.channels + first) * bins + bin;
    int64_t const plane = int64_t(a.height) * a.width;
    for (int j = 0; j < min(kRoiPoolChannels, a.channels - first); ++j, map += plane, y += bins)
      *y = from_float<T>(roi_pool_value(map, window, a.width));
  }
}

template <class T>
cudaError_t launch_roi_pool(RoiPoolArguments<T> const& a, cudaStream_t stream) {
  return launch_roi_pool_kernel(roi_pool_kernel<T>, a, stream);
}

}  // namespace bridge
