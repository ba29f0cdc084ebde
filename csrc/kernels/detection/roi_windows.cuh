// Windows of whole pixels over regions of interest (Girshick, https://arxiv.org/abs/1504.08083, section 2.1, with
// torchvision's rounding). Rounding is spelt out, so that windows are the reference's.
#pragma once

#include <algorithm>

#include "kernels/detection/roi_align_geometry.cuh"

namespace bridge {

constexpr int kRoiPoolThreads = 256;

template <class T>
struct RoiPoolArguments {
  T const* x;        // [batch, channels, height, width]
  void const* rois;  // [count, 5] of roi_dtype: image, x1, y1, x2, y2
  T* y;              // [count, channels_out, pooled_h, pooled_w]
  DType roi_dtype;
  int64_t batch, count;
  int channels, channels_out, height, width, pooled_h, pooled_w;
  float spatial_scale;

  __host__ __device__ int bins() const { return pooled_h * pooled_w; }
  __host__ __device__ int64_t items() const { return count * channels_out * bins(); }
  __device__ T const* map(int64_t image, int channel) const {  // [height, width]
    return x + (image * channels + channel) * height * width;
  }
};

// The windows of a region along one axis, as many as the grid has bins: each is `bin` pixels wide, from `start` on.
struct RoiSpan {
  float start, bin;

  __device__ bool finite() const { return isfinite(start) && isfinite(bin); }
  // Where a window begins and ends, between 0 and `limit`.
  __device__ int first(int place, int limit) const { return clipped(floorf(__fmul_rn(float(place), bin)), limit); }
  __device__ int end(int place, int limit) const { return clipped(ceilf(__fmul_rn(float(place + 1), bin)), limit); }

 private:
  __device__ int clipped(float offset, int limit) const {
    float const pixel = fmaxf(__fadd_rn(offset, start), 0.f);
    return pixel < float(limit) ? static_cast<int>(pixel) : limit;
  }
};

// From the rounded `low` up to the rounded `high`, and `further` pixels.
__device__ inline RoiSpan roi_span(float low, float high, float scale, int pooled, float further) {
  float const start = roundf(__fmul_rn(low, scale)), end = roundf(__fmul_rn(high, scale));
  float const length = __fadd_rn(__fsub_rn(end, start), further);
  // The largest of NaN and 1 is 1: what is not finite must stay so.
  return {start, isfinite(length) ? __fdiv_rn(fmaxf(length, 1.f), float(pooled)) : length};
}

// One bin of a region: the pixels from row up to row_end, and from column up to column_end, of an image.
struct RoiWindow {
  int64_t image;  // -1: the result is NaN
  int row, row_end, column, column_end;

  __device__ bool empty() const { return row_end <= row || column_end <= column; }
};

// further, margin: pixels that count as a region's beyond its rounded end, and rows and columns that no window reaches.
template <class T>
__device__ RoiWindow roi_window(RoiPoolArguments<T> const& a, int64_t roi, int bin, float further, int margin) {
  float value[5];
#pragma unroll
  for (int i = 0; i < 5; ++i) value[i] = roi_value(a, roi * 5 + i);
  RoiSpan const y = roi_span(value[2], value[4], a.spatial_scale, a.pooled_h, further);
  RoiSpan const x = roi_span(value[1], value[3], a.spatial_scale, a.pooled_w, further);
  if (!(value[0] > -1.f && value[0] < float(a.batch)) || !y.finite() || !x.finite()) return {-1, 0, 0, 0, 0};
  int const row = bin / a.pooled_w, column = bin % a.pooled_w;
  int const rows = a.height - margin, columns = a.width - margin;
  return {static_cast<int64_t>(value[0]), y.first(row, rows), y.end(row, rows), x.first(column, columns),
          x.end(column, columns)};
}

// Runs `kernel`, whose threads take items of a grid's step each.
template <class T>
cudaError_t launch_roi_pool_kernel(void (*kernel)(RoiPoolArguments<T>), RoiPoolArguments<T> const& a,
                                   cudaStream_t stream) {
  if (a.items() == 0) return cudaSuccess;
  int64_t const blocks = std::min(ceil_divide(a.items(), kRoiPoolThreads), kMaxGridX);
  kernel<<<static_cast<unsigned>(blocks), kRoiPoolThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
