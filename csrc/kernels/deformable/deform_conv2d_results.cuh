// Where the sums of a tile go: to the result by way of shared memory or, where several blocks share the tile, to memory
// as they are, for a kernel that adds them.
#pragma once

#include "kernels/deformable/deform_conv2d_pack.cuh"

namespace bridge {

// Of a result row-major, or with channels last. A row is aligned; its neighbour is in other banks.
template <class T, int kPositions, int kChannels>
union ResultTile {
  T value[kChannels][kPositions + kLanes<T>];
  T pixel[kPositions][kChannels + kLanes<T>];
};

// Puts a tile's sums there. each: calls visit(position, channel, value) for those of this thread.
template <class T, int kPositions, int kChannels, class Each, class Result>
__device__ void store_results(DeformConv2dArguments<T> const& a, ResultTile<T, kPositions, kChannels>& tile, Each each,
                              Result result) {
  if (a.y_channels_last) {
    each([&](int position, int channel, float sum) { tile.pixel[position][channel] = result(channel, sum); });
  } else {
    each([&](int position, int channel, float sum) { tile.value[channel][position] = result(channel, sum); });
  }
}

// As write_results. wide: kLanes channels in a row lie together in y, and are of one group.
template <class T, int kThreads, int kPositions, int kChannels>
__device__ void write_pixels(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                             int64_t out_end, ResultTile<T, kPositions, kChannels> const& result, bool wide) {
  constexpr int kVectors = kChannels / kLanes<T>;
  static_assert(kThreads % kVectors == 0);
  int const vector = threadIdx.x % kVectors * kLanes<T>, left = static_cast<int>(out_end - out_first) - vector;
  if (left <= 0) return;
  for (int position = threadIdx.x / kVectors; position < kPositions; position += kThreads / kVectors) {
    OutputPosition const at = tile_position(a, tiles, kPositions, blockIdx.x, position);
    if (!at.valid) continue;
    T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out_first + vector;
    T const* const values = &result.pixel[position][vector];
    if (wide) {
      *reinterpret_cast<uint4*>(y) = *reinterpret_cast<uint4 const*>(values);
    } else {
      for (int lane = 0; lane < min(left, kLanes<T>); ++lane) y[lane] = values[lane];
    }
  }
}

// Writes a tile of results with the block's first kThreads threads. wide: kLanes positions in a row lie together in y
// or, with channels last, as write_pixels has it.
template <class T, int kThreads, int kPositions, int kChannels>
__device__ void write_results(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                              int64_t out_end, ResultTile<T, kPositions, kChannels> const& result, bool wide) {
  if (a.y_channels_last) return write_pixels<T, kThreads>(a, tiles, out_first, out_end, result, wide);
  constexpr int kVectors = kPositions / kLanes<T>;
  static_assert(kThreads % kVectors == 0);
  int const vector = threadIdx.x % kVectors;
  int64_t const plane = a.out_plane();
  T* y[kLanes<T>];  // in the first output channel; null where there is no such position
#pragma unroll
  for (int lane = 0; lane < (wide ? 1 : kLanes<T>); ++lane) {
    OutputPosition const at = tile_position(a, tiles, kPositions, blockIdx.x, vector * kLanes<T> + lane);
    y[lane] = at.valid ? a.y + at.n * a.out_channels * plane + int64_t(at.row) * a.out_width + at.column : nullptr;
  }
  if (y[0] == nullptr) return;  // nor are there any after it
  for (int row = threadIdx.x / kVectors; row < kChannels; row += kThreads / kVectors) {
    int64_t const out = out_first + row;
    if (out >= out_end) return;
    T const* const values = &result.value[row][vector * kLanes<T>];
    if (wide) {
      *reinterpret_cast<uint4*>(y[0] + out * plane) = *reinterpret_cast<uint4 const*>(values);
    } else {
#pragma unroll
      for (int lane = 0; lane < kLanes<T>; ++lane)
        if (y[lane]) y[lane][out * plane] = values[lane];
    }
  }
}

// Where this block's sums go, when several blocks share a tile.
template <class T>
__device__ float* partial_sums(PackedOperands<T> const& packed, int tile_size) {
  int64_t const tile = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  return packed.sums + tile * tile_size;
}

constexpr int kAddTogether = 4, kAddAhead = 8;  // output channels of a thread; splits that it reads at once

// Adds the sums of the blocks that share a tile. Grid: x over tiles of positions, y over tiles of output channels, z
// over parts of kPackThreads * kAddTogether elements of a tile.
template <class T>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_add_kernel(
    DeformConv2dArguments<T> a, DeformConv2dPlan plan,
    float const* sums) {  // [splits, groups * tiles, tiles of positions, tile_channels, tile_positions]
  wait_for_kernel_before();
  unsigned const item = blockIdx.z * kPackThreads + threadIdx.x;
  int const channel = static_cast<int>(item / plan.tile_positions), apart = plan.tile_channels / kAddTogether;
  int const position = static_cast<int>(item) - channel * plan.tile_positions;
  int64_t const first = int64_t(blockIdx.y % plan.tiles) * plan.tile_channels + channel;  // in its group
  OutputPosition const at = tile_position(a, plan.positions, plan.tile_positions, blockIdx.x, position);
  if (!at.valid) return;
  int64_t const out = blockIdx.y / plan.tiles * plan.group_out + first, apart_in_y = apart * a.y_apart();
  int64_t const split_size = plan.tile_size() * gridDim.x * gridDim.y;
  sums += (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * plan.tile_size() + item;
  float sum[kAddTogether] = {};
  for (int split = 0; split < plan.splits; split += kAddAhead, sums += kAddAhead * split_size) {
    float part[kAddAhead][kAddTogether];
#pragma unroll
    for (int j = 0; j < kAddAhead; ++j) {
#pragma unroll
      for (int i = 0; i < kAddTogether; ++i)
        part[j][i] = split + j < plan.splits ? sums[j * split_size + i * apart * plan.tile_positions] : 0.f;
    }
#pragma unroll
    for (int j = 0; j < kAddAhead; ++j) {
#pragma unroll
      for (int i = 0; i < kAddTogether; ++i) sum[i] += part[j][i];
    }
  }
  T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out * a.y_apart();
#pragma unroll
  for (int i = 0; i < kAddTogether; ++i) {
    if (first + i * apart >= plan.group_out) return;
    float const bias = a.bias ? to_float(a.bias[out + i * apart]) : 0.f;
    y[i * apart_in_y] = from_float<T>(a.activation(sum[i] + bias));
  }
}

// Writes a block's sums: as they are where several blocks share the tile, else as results, by way of shared memory.
template <class T, class Product>
__device__ void write_sums(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                           PackedOperands<T> const& packed, int group, int tile, Product const& product,
                           unsigned char* memory, bool wide) {
  if (plan.splits > 1) {
    float* const sums = partial_sums(packed, Product::kPositions * Product::kChannels);
    product.each([&](int position, int channel, float sum) { sums[channel * Product::kPositions + position] = sum; });
    return;
  }
  Product::synchronize();
  auto& result = *reinterpret_cast<ResultTile<T, Product::kPositions, Product::kChannels>*>(memory);
  int64_t const out_first = group * plan.group_out + int64_t(tile) * Product::kChannels;
  int64_t const out_end = (group + 1) * plan.group_out;
  store_results(
      a, result, [&](auto visit) { product.each(visit); },
      [&](int channel, float sum) {
        float const bias = a.bias && out_first + channel < out_end ? to_float(a.bias[out_first + channel]) : 0.f;
        return from_float<T>(a.activation(sum + bias));
      });
  Product::synchronize();
  write_results<T, Product::kThreads>(a, plan.positions, out_first, out_end, result, wide);
}

}  // namespace bridge
