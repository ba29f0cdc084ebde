// What every kernel of deformable convolution takes, and the geometry that they share.
#pragma once

#include "kernels/deformable/bilinear.cuh"

namespace bridge {

// What is made of a sum: max(sum, least), and that times `slope` where it is negative. NaN stays NaN.
struct DeformConv2dActivation {
  float least = -INFINITY, slope = 1.f;

  __device__ float operator()(float sum) const {
    float const clipped = sum < least ? least : sum;
    return clipped < 0.f ? slope * clipped : clipped;
  }
};

// Of 16-bit tensors by four instructions; less than 2^-126 is 0.
template <class T>
__device__ float sigmoid(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return 1.f / (1.f + expf(-x));
  float power, result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(1.f + power));
  return result;
}

// taps: kernel_h * kernel_w. Offsets and masks are dense within an image.
template <class T>
struct DeformConv2dArguments {
  T const* x;              // [batch, channels, height, width], or [batch, height, width, channels] where channels_last
  T const* offset;         // [batch, offset_groups, taps, 2, out_height, out_width], y before x
  T const* weight;         // [out_channels, channels / groups, kernel_h, kernel_w]
  T const* bias;           // [out_channels], or null
  T const* mask;           // [batch, offset_groups, taps, out_height, out_width], or null
  T* y;                    // [batch, out_channels, out_height, out_width], or with channels last
  T const* packed_weight;  // weight as fused kernels read it (PackedOperands), or null
  int64_t batch, channels, out_channels;
  int64_t offset_image, mask_image;  // elements from an image's offsets or masks to the next one's
  int height, width, out_height, out_width, kernel_h, kernel_w;
  int stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int groups, offset_groups;
  bool tf32;  // float may be rounded to TF32
  bool channels_last, y_channels_last;
  bool logits;  // masks are what sigmoid is to be applied to
  DeformConv2dActivation activation;

  __host__ __device__ int taps() const { return kernel_h * kernel_w; }
  __host__ __device__ int64_t plane() const { return int64_t(height) * width; }
  __host__ __device__ int64_t out_plane() const { return int64_t(out_height) * out_width; }
  __host__ __device__ int64_t positions() const { return batch * out_plane(); }

  // Elements of y from an output channel to the next, and where its first one is for `pixel` of an image.
  __host__ __device__ int64_t y_apart() const { return y_channels_last ? 1 : out_plane(); }
  __device__ T* y_at(int64_t image, int64_t pixel) const {
    return y + image * out_channels * out_plane() + (y_channels_last ? pixel * out_channels : pixel);
  }
};

// A tile of output positions: a rectangle of one image, so that its samples lie close together; or, where images are
// small, positions in a row of all images. Positions of it that are outside are not valid, and stand for another one.
struct PositionTile {
  bool flat;          // in a row of all images
  int width_log2;     // of a rectangle; its height is its positions divided by that, without what is left out
  int rows, columns;  // rectangles in an image; flat: rows are the tiles, all in one column
  int left_out;       // rows at the end of a tile, which the next one has

  __host__ __device__ int64_t count(int64_t batch) const { return (flat ? 1 : batch) * rows * columns; }
};

struct OutputPosition {
  int64_t n;
  int row, column;
  bool valid;
};

template <class T>
__device__ OutputPosition tile_position(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int positions,
                                        unsigned tile, int position) {
  if (tiles.flat) {
    unsigned const plane = a.out_height * a.out_width, all = static_cast<unsigned>(a.batch) * plane;
    unsigned const wanted = tile * positions + position, p = min(wanted, all - 1), pixel = p % plane;
    int const row = static_cast<int>(pixel / a.out_width);
    return {p / plane, row, static_cast<int>(pixel) - row * a.out_width, wanted < all};
  }
  unsigned const in_image = tiles.rows * tiles.columns, rest = tile % in_image;
  int const height = (positions >> tiles.width_log2) - tiles.left_out, in_tile = position >> tiles.width_log2;
  int const row = static_cast<int>(rest / tiles.columns) * height;
  int const column = static_cast<int>(rest % tiles.columns) << tiles.width_log2;
  OutputPosition at{tile / in_image, row + in_tile, column + (position & ((1 << tiles.width_log2) - 1)), false};
  at.valid = in_tile < height && at.row < a.out_height && at.column < a.out_width;
  at.row = min(at.row, a.out_height - 1), at.column = min(at.column, a.out_width - 1);
  return at;
}

// Position `p` of the flattened [batch, out_height, out_width].
template <class T>
__device__ OutputPosition output_position(DeformConv2dArguments<T> const& a, int64_t p) {
  int64_t const plane = a.out_plane();
  int const rest = static_cast<int>(p % plane);
  return {p / plane, rest / a.out_width, rest % a.out_width, true};
}

// Where a tap of an output position samples, with offsets as they are in memory, and the factor of the sample.
template <class T>
struct TapSample {
  T dy, dx;
  float factor;
};

template <class T>
__device__ TapSample<T> load_tap(DeformConv2dArguments<T> const& a, OutputPosition const& at, int tap,
                                 int offset_group) {
  int64_t const plane = a.out_plane(), row = int64_t(offset_group) * a.taps() + tap;
  int64_t const pixel = int64_t(at.row) * a.out_width + at.column;
  T const* const offset = a.offset + at.n * a.offset_image + 2 * row * plane + pixel;
  float const mask = a.mask ? to_float(a.mask[at.n * a.mask_image + row * plane + pixel]) : 1.f;
  return {offset[0], offset[plane], a.logits ? sigmoid<T>(mask) : mask};
}

template <class T>
__device__ BilinearCorners tap_corners(DeformConv2dArguments<T> const& a, OutputPosition const& at, int tap,
                                       TapSample<T> const& sample) {
  int const row = tap / a.kernel_w;
  float const y = float(at.row * a.stride_h - a.padding_h + row * a.dilation_h) + to_float(sample.dy);
  float const x =
      float(at.column * a.stride_w - a.padding_w + (tap - row * a.kernel_w) * a.dilation_w) + to_float(sample.dx);
  return bilinear_corners(y, x, a.height, a.width, sample.factor);
}

}  // namespace bridge
