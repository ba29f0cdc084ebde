// Bilinear sampling of one feature map with zero padding, as deformable convolution defines it
// (Dai et al., https://arxiv.org/abs/1703.06211, equation 3): corners outside the map count as zero.
#pragma once

#include "kernels/common/vec.cuh"

namespace bridge {

// The four corners around a point: offset into the map (-1: outside it) and weight of each; scale multiplies their sum.
struct BilinearCorners {
  int offset[4];
  float weight[4];
  float scale;
};

// A NaN coordinate gives a NaN sample: a wrong offset must not pass for a zero.
__device__ inline BilinearCorners bilinear_corners(float y, float x, int height, int width, float scale) {
  BilinearCorners corners;
  bool const inside = y > -1.f && y < float(height) && x > -1.f && x < float(width);
  float const floor_y = floorf(y), floor_x = floorf(x);
  int const top = inside ? int(floor_y) : -1, left = inside ? int(floor_x) : -1;
  float const below = inside ? y - floor_y : 0.f, right = inside ? x - floor_x : 0.f;  // not NaN at infinity
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int const row = top + i / 2, column = left + i % 2;
    bool const valid = inside && row >= 0 && row < height && column >= 0 && column < width;
    corners.offset[i] = valid ? row * width + column : -1;
    corners.weight[i] = (i / 2 ? below : 1.f - below) * (i % 2 ? right : 1.f - right);
  }
  corners.scale = isnan(y) || isnan(x) ? nanf("") : scale;
  return corners;
}

template <class T>
__device__ float bilinear_sample(T const* map,  // [height, width], `pixel` elements apart
                                 BilinearCorners const& corners, int64_t pixel = 1) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (corners.offset[i] >= 0) sum += corners.weight[i] * to_float(map[corners.offset[i] * pixel]);
  }
  return corners.scale * sum;
}

}  // namespace bridge
