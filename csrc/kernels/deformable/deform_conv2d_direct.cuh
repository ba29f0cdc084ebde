// Deformable convolution for any geometry, without tensor cores: a block computes kTilePositions × kTileChannels
// outputs, gathering samples and weights through shared memory. What the other kernels do not take, and their oracle.
#pragma once

#include <algorithm>

#include "kernels/deformable/deform_conv2d_arguments.cuh"

namespace bridge {

constexpr int kTilePositions = 64;
constexpr int kTileChannels = 64;
constexpr int kTileDepth = 16;  // input channels gathered at a time
constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // each thread owns 4 positions × 4 channels

// In shared memory.
struct DeformConv2dTile {
  BilinearCorners corners[kTilePositions];       // of one tap
  float samples[kTileDepth][kTilePositions];     // of that tap
  float weights[kTileDepth][kTileChannels + 1];  // likewise; a row's neighbour is in other banks
};

template <class T>
__device__ void load_corners(DeformConv2dArguments<T> const& a, DeformConv2dTile& tile, int64_t first, int tap,
                             int offset_group) {
  for (int i = threadIdx.x; i < kTilePositions; i += kThreads) {
    if (first + i >= a.positions()) {
      tile.corners[i] = {{-1, -1, -1, -1}, {0.f, 0.f, 0.f, 0.f}, 0.f};
      continue;
    }
    OutputPosition const at = output_position(a, first + i);
    tile.corners[i] = tap_corners(a, at, tap, load_tap(a, at, tap, offset_group));
  }
}

// Samples of input channels [channel, end) at this tap: [kTileDepth, kTilePositions], zero past the end.
template <class T>
__device__ void load_samples(DeformConv2dArguments<T> const& a, DeformConv2dTile& tile, int64_t first, int64_t channel,
                             int64_t end) {
  int64_t const out_plane = int64_t(a.out_height) * a.out_width, plane = int64_t(a.height) * a.width;
  for (int i = threadIdx.x; i < kTileDepth * kTilePositions; i += kThreads) {
    int const depth = i / kTilePositions, position = i % kTilePositions;
    int64_t const p = first + position;
    bool const valid = channel + depth < end && p < a.batch * out_plane;
    int64_t const n = valid ? p / out_plane : 0;
    int64_t const c = channel + depth, image = n * a.channels * plane;
    T const* map = a.x + image + (a.channels_last ? c : c * plane);
    int64_t const pixel = a.channels_last ? a.channels : 1;
    tile.samples[depth][position] = valid ? bilinear_sample(map, tile.corners[position], pixel) : 0.f;
  }
}

template <class T>
__device__ void load_weights(DeformConv2dArguments<T> const& a, DeformConv2dTile& tile, int64_t out_first,
                             int64_t out_end, int64_t channel, int64_t end, int tap, int64_t group_first) {
  int64_t const group_channels = a.channels / a.groups;
  int const taps = a.kernel_h * a.kernel_w;
  for (int i = threadIdx.x; i < kTileDepth * kTileChannels; i += kThreads) {
    int const depth = i % kTileDepth, out = i / kTileDepth;
    bool const valid = channel + depth < end && out_first + out < out_end;
    int64_t const index = ((out_first + out) * group_channels + channel + depth - group_first) * taps + tap;
    tile.weights[depth][out] = valid ? to_float(a.weight[index]) : 0.f;
  }
}

// Adds up the tile's products first: fewer terms follow one another in fp32.
__device__ inline void multiply(DeformConv2dTile const& tile, float (&sum)[kPerThread][kPerThread]) {
  int const position = threadIdx.x % 16, out = threadIdx.x / 16;
  float part[kPerThread][kPerThread] = {};
#pragma unroll
  for (int depth = 0; depth < kTileDepth; ++depth) {
#pragma unroll
    for (int o = 0; o < kPerThread; ++o) {
#pragma unroll
      for (int p = 0; p < kPerThread; ++p) {
        part[o][p] = fmaf(tile.weights[depth][out + 16 * o], tile.samples[depth][position + 16 * p], part[o][p]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < kPerThread; ++o) {
#pragma unroll
    for (int p = 0; p < kPerThread; ++p) sum[o][p] += part[o][p];
  }
}

// Writes this thread's sums, with the bias.
template <class T>
__device__ void write_sums(DeformConv2dArguments<T> const& a, int64_t first, int64_t out_first, int64_t out_end,
                           float const (&sum)[kPerThread][kPerThread]) {
  int64_t const plane = int64_t(a.out_height) * a.out_width, positions = a.batch * plane, apart = a.y_apart();
#pragma unroll
  for (int o = 0; o < kPerThread; ++o) {
    int64_t const out = out_first + threadIdx.x / 16 + 16 * o;
    if (out >= out_end) continue;
    float const bias = a.bias ? to_float(a.bias[out]) : 0.f;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      int64_t const p = first + threadIdx.x % 16 + 16 * i;
      if (p >= positions) continue;
      a.y_at(p / plane, p % plane)[out * apart] = from_float<T>(a.activation(sum[o][i] + bias));
    }
  }
}

// Grid: x over tiles of positions, y over (group, tile of its output channels), strided where the grid is smaller.
template <class T>
__global__ void __launch_bounds__(kThreads) deform_conv2d_direct_kernel(DeformConv2dArguments<T> a,
                                                                        int64_t channel_tiles) {
  __shared__ DeformConv2dTile tile;
  int64_t const plane = int64_t(a.out_height) * a.out_width, positions = a.batch * plane;
  int64_t const group_channels = a.channels / a.groups, group_out = a.out_channels / a.groups;
  int64_t const per_offset_group = a.channels / a.offset_groups;
  for (int64_t block = blockIdx.y; block < channel_tiles * a.groups; block += gridDim.y) {
    int64_t const group = block / channel_tiles, group_first = group * group_channels;
    int64_t const out_first = group * group_out + block % channel_tiles * kTileChannels,
                  out_end = (group + 1) * group_out;
    for (int64_t first = int64_t(blockIdx.x) * kTilePositions; first < positions;
         first += int64_t(gridDim.x) * kTilePositions) {
      float sum[kPerThread][kPerThread] = {};
      for (int tap = 0; tap < a.kernel_h * a.kernel_w; ++tap) {
        for (int64_t channel = group_first; channel < group_first + group_channels;) {
          int64_t const offset_group = channel / per_offset_group;
          int64_t const end = min(group_first + group_channels, (offset_group + 1) * per_offset_group);
          load_corners(a, tile, first, tap, static_cast<int>(offset_group));
          __syncthreads();
          for (; channel < end; channel += kTileDepth) {
            load_samples(a, tile, first, channel, end);
            load_weights(a, tile, out_first, out_end, channel, end, tap, group_first);
            __syncthreads();
            multiply(tile, sum);
            __syncthreads();
          }
          channel = end;
        }
      }
      write_sums(a, first, out_first, out_end, sum);
    }
  }
}

template <class T>
cudaError_t launch_deform_conv2d_direct(DeformConv2dArguments<T> const& a, cudaStream_t stream) {
  int64_t const positions = a.batch * a.out_height * a.out_width;
  if (positions == 0 || a.out_channels == 0) return cudaSuccess;
  int64_t const channel_tiles = ceil_divide(a.out_channels / a.groups, kTileChannels);
  dim3 const grid(static_cast<unsigned>(std::min(ceil_divide(positions, kTilePositions), kMaxGridX)),
                  static_cast<unsigned>(std::min(channel_tiles * a.groups, kMaxGridY)));
  deform_conv2d_direct_kernel<<<grid, kThreads, 0, stream>>>(a, channel_tiles);
  return cudaGetLastError();
}

}  // namespace bridge
