// The kernel of preprocess for any images, filter and result: a thread computes one pixel by itself.
#pragma once

#include "kernels/image/preprocess_filter.cuh"
#include "kernels/image/preprocess_geometry.cuh"
#include "kernels/image/preprocess_result.cuh"

namespace bridge {

constexpr int kDirectThreads = 256;

// Adds what a sample takes of a plane, from its channel `into` on. left, top: the box in pixels of the plane.
template <bool kNearest>
__device__ void sample(PreprocessArguments const& a, Plane const& plane, int channels, int64_t n, Placement const& p,
                       int step, int row, int column, float* into) {
  Axis const down(a, p.height / step, p.high), across(a, p.width / step, p.wide);
  int const left = p.left / step, top = p.top / step;
  if constexpr (kNearest) {
    uint8_t const* const pixel =
        plane.line(n, top + down.nearest(row)) + int64_t(left + across.nearest(column)) * plane.pixel;
#pragma unroll
    for (int c = 0; c < kMostChannels; ++c) {
      if (c < channels) into[c] = float(pixel[c * plane.channel]);
    }
  } else {
    Window const rows = down.window(row), columns = across.window(column);
    float const whole = 1.f / (rows.total * columns.total);
    for (int i = 0; i < rows.count; ++i) {
      uint8_t const* const line = plane.line(n, top + down.clamped(rows.first + i)) + int64_t(left) * plane.pixel;
      float sums[kMostChannels] = {};
      for (int k = 0; k < columns.count; ++k) {
        float const weight = across.weight(columns, k);
        uint8_t const* const pixel = line + int64_t(across.clamped(columns.first + k)) * plane.pixel;
#pragma unroll
        for (int c = 0; c < kMostChannels; ++c) {
          if (c < channels) sums[c] = fmaf(weight, float(pixel[c * plane.channel]), sums[c]);
        }
      }
      float const weight = down.weight(rows, i) * whole;
#pragma unroll
      for (int c = 0; c < kMostChannels; ++c) {
        if (c < channels) into[c] = fmaf(weight, sums[c], into[c]);
      }
    }
  }
}

template <class T, bool kNearest>
__global__ void __launch_bounds__(kDirectThreads) preprocess_direct_kernel(PreprocessArguments a, Canvas<T> canvas) {
  __shared__ Placement box;
  int64_t const pixels = int64_t(a.out_h) * a.out_w;
  int64_t const pixel = int64_t(blockIdx.x) * kDirectThreads + threadIdx.x;
  for (int64_t n = blockIdx.y; n < a.batch; n += gridDim.y) {
    Placement const& p = block_placement(a, n, box);
    if (pixel >= pixels) continue;
    int const y = static_cast<int>(pixel / a.out_w), x = static_cast<int>(pixel % a.out_w);
    int const row = y - p.row, column = x - p.column;
    bool const within = p.right && row >= 0 && row < p.high && column >= 0 && column < p.wide;
    Levels levels = within ? Levels{} : around(a, p.right);
    if (within) {
      sample<kNearest>(a, a.images, a.channels, n, p, 1, row, column, levels.value);
      if (a.colours == Colours::kYuv) sample<kNearest>(a, a.chroma, 2, n, p, 2, row, column, levels.value + 1);
      levels = finished(a, levels);
    }
    write(a, canvas, n, y, x, levels);
  }
}

template <class T>
cudaError_t launch_preprocess_direct(PreprocessArguments const& a, Canvas<T> canvas, cudaStream_t stream) {
  int64_t const blocks = ceil_divide(int64_t(a.out_h) * a.out_w, kDirectThreads);
  dim3 const grid(static_cast<unsigned>(blocks), static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY));
  bool const nearest = a.filter == Filter::kNearest || a.filter == Filter::kNearestExact;
  auto kernel = nearest ? preprocess_direct_kernel<T, true> : preprocess_direct_kernel<T, false>;
  kernel<<<grid, kDirectThreads, 0, stream>>>(a, canvas);
  return cudaGetLastError();
}

}  // namespace bridge
