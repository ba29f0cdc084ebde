// Products of two tiles in shared memory: sum[positions × channels] += a[positions × depth] b[channels × depth]^T, rows
// of kRowBytes, swizzled.
#pragma once

#include <type_traits>

#include "kernels/common/tensor_core.cuh"
#include "kernels/deformable/deform_conv2d_plan.cuh"

namespace bridge {

// Tensor cores by mma.sync: half and bfloat16, and float rounded to TF32. Warps in two rows of kAcross.
template <class T, int kPositions_, int kChannels_, int kAcross = 4>
struct WarpProduct {
  static constexpr bool kRounds = std::is_same_v<T, float>;
  static constexpr int kParts = 1;  // tiles that an operand is in
  static constexpr int kPositions = kPositions_, kChannels = kChannels_, kThreads = 2 * kAcross * 32;
  static constexpr int kRows = kPositions / 2, kColumns = kChannels / kAcross, kTiles = kRows / 16,
                       kWide = kColumns / 8;
  float sum[kTiles][kWide][4] = {};

  static __device__ void synchronize() { __syncthreads(); }  // the threads that multiply

  // Of 16 rows of this warp, and of 16 of its columns: 32 bytes of depth.
  static __device__ void load_left(uint32_t (&out)[4], uint32_t a, int i, int step) {
    int const lane = threadIdx.x % 32, row = threadIdx.x / 32 / kAcross * kRows + lane % 16;
    load_matrices(out, a + (row + 16 * i) * kRowBytes + swizzled(row, 2 * step + lane / 16) * kAccessBytes);
  }
  static __device__ void load_right(uint32_t (&out)[4], uint32_t b, int j, int step) {
    int const lane = threadIdx.x % 32, column = threadIdx.x / 32 % kAcross * kColumns + lane % 8 + lane / 16 * 8;
    load_matrices(out, b + (column + 16 * j) * kRowBytes + swizzled(column, 2 * step + lane / 8 % 2) * kAccessBytes);
  }

  __device__ void add(uint32_t a, uint32_t b) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t left[kTiles][4], right[kWide / 2][4];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) load_left(left[i], a, i, step);
#pragma unroll
      for (int j = 0; j < kWide / 2; ++j) load_right(right[j], b, j, step);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < kWide; ++j)
          multiply_add<T>(sum[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // Calls visit(position, channel, value) for each sum of this thread.
  template <class Visit>
  __device__ void each(Visit visit) const {
    int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          visit(warp / kAcross * kRows + 16 * i + lane / 4 + k / 2 * 8,
                warp % kAcross * kColumns + 8 * j + lane % 4 * 2 + k % 2, sum[i][j][k]);
      }
    }
  }
};

// float as the sum of two TF32 numbers, each in a tile of its own, and products without the smallest of four terms:
// errors of fp32, on tensor cores. A stage's products are added up before they join the sum, for tensor cores round
// sums toward zero.
template <int kPositions, int kChannels, int kAcross = 4>
struct SplitProduct : WarpProduct<float, kPositions, kChannels, kAcross> {
  static constexpr bool kRounds = false;
  static constexpr int kParts = 2;
  using Base = WarpProduct<float, kPositions, kChannels, kAcross>;

  __device__ void add(uint32_t a, uint32_t b) {
    constexpr uint32_t kLeft = kPositions * kRowBytes, kRight = kChannels * kRowBytes;  // of a tile
    Base part;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t left[2][Base::kTiles][4];
#pragma unroll
      for (int i = 0; i < Base::kTiles; ++i)
        Base::load_left(left[0][i], a, i, step), Base::load_left(left[1][i], a + kLeft, i, step);
      uint32_t high[4], low[4];
#pragma unroll
      for (int j = 0; j < Base::kWide; ++j) {
        if (j % 2 == 0) Base::load_right(high, b, j / 2, step), Base::load_right(low, b + kRight, j / 2, step);
        int const k = j % 2 * 2;
#pragma unroll
        for (int i = 0; i < Base::kTiles; ++i) {
          multiply_add<float>(part.sum[i][j], left[1][i], high[k], high[k + 1]);
          multiply_add<float>(part.sum[i][j], left[0][i], low[k], low[k + 1]);
          multiply_add<float>(part.sum[i][j], left[0][i], high[k], high[k + 1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Base::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < Base::kWide; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) this->sum[i][j][k] += part.sum[i][j][k];
      }
    }
  }
};

}  // namespace bridge
