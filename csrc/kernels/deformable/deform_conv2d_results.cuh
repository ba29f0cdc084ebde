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

// As write_rows, of y with channels last: kWide channels of a group.
template <int kWide, class T, int kThreads, int kPositions, int kChannels>
__device__ void write_pixels(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                             int64_t out_end, ResultTile<T, kPositions, kChannels> const& result) {
  constexpr int kVectors = kChannels / kWide, kStep = kThreads > kVectors ? kThreads / kVectors : 1;
  for (int vector = threadIdx.x % kVectors; vector < kVectors; vector += kThreads) {
    int const channel = vector * kWide;
    if (out_first + channel >= out_end) return;
    for (int position = threadIdx.x / kVectors; position < kPositions; position += kStep) {
      OutputPosition const at = tile_position(a, tiles, kPositions, blockIdx.x, position);
      if (!at.valid) continue;
      T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out_first + channel;
      *reinterpret_cast<Vec<T, kWide>*>(y) = *reinterpret_cast<Vec<T, kWide> const*>(&result.pixel[position][channel]);
    }
  }
}

// Writes kWide positions of an output channel at a time, those side by side in a warp. Of 16 bits some channels are on
// their way at once; others have not been measured so.
template <int kWide, class T, int kThreads, int kPositions, int kChannels>
__device__ void write_rows(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                           int64_t out_end, ResultTile<T, kPositions, kChannels> const& result) {
  constexpr int kVectors = kPositions / kWide, kStep = kThreads / kVectors;
  constexpr int kAll = kChannels / kStep, kMost = sizeof(T) > 2 ? 1 : kWide == kLanes<T> ? 4 : 8;
  constexpr int kTogether = kAll < kMost ? kAll : kMost;
  static_assert(kThreads % kVectors == 0 && kChannels % (kStep * kTogether) == 0);
  using Packet = Vec<T, kWide>;
  int const position = threadIdx.x % kVectors * kWide,
            rows = static_cast<int>(min(int64_t(kChannels), out_end - out_first));
  OutputPosition const at = tile_position(a, tiles, kPositions, blockIdx.x, position);
  if (!at.valid) return;
  int64_t const plane = a.out_plane();
  T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out_first * plane;
  for (int row = threadIdx.x / kVectors; row < rows; row += kStep * kTogether) {
    Packet part[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      part[i] = *reinterpret_cast<Packet const*>(&result.value[row + i * kStep][position]);
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (row + i * kStep < rows) *reinterpret_cast<Packet*>(y + (row + i * kStep) * plane) = part[i];
  }
}

template <int kWide, class T, int kThreads, int kPositions, int kChannels>
__device__ void write_results_as(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                                 int64_t out_end, ResultTile<T, kPositions, kChannels> const& result) {
  if (a.y_channels_last) {
    write_pixels<kWide, T, kThreads>(a, tiles, out_first, out_end, result);
  } else {
    write_rows<kWide, T, kThreads>(a, tiles, out_first, out_end, result);
  }
}

// Writes a tile of results with the block's first kThreads threads. wide: see results_together.
template <class T, int kThreads, int kPositions, int kChannels>
__device__ void write_results(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                              int64_t out_end, ResultTile<T, kPositions, kChannels> const& result, int wide) {
  if (wide == kLanes<T>) {
    write_results_as<kLanes<T>, T, kThreads>(a, tiles, out_first, out_end, result);
  } else if (wide == 2) {
    write_results_as<2, T, kThreads>(a, tiles, out_first, out_end, result);
  } else {
    write_results_as<1, T, kThreads>(a, tiles, out_first, out_end, result);
  }
}

// Where this block's sums go, when several blocks share a tile.
template <class T>
__device__ float* partial_sums(PackedOperands<T> const& packed, int tile_size) {
  int64_t const tile = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  return packed.sums + tile * tile_size;
}

// Stores sums there, in the order in which the result is written. each: as store_results has it.
template <int kPositions, int kChannels, class Each>
__device__ void store_partial_sums(float* sums, bool channels_last, Each each) {
  if (channels_last) {
    each([&](int position, int channel, float sum) { sums[position * kChannels + channel] = sum; });
  } else {
    each([&](int position, int channel, float sum) { sums[channel * kPositions + position] = sum; });
  }
}

constexpr int kAddTogether = 4, kAddAhead = 8;  // output channels of a thread; splits that it reads at once

// Sums of a thread's channels, which lie side by side or `apart`, in one split.
template <bool kSideBySide>
__device__ void load_partial_sums(float (&part)[kAddTogether], float const* sums, int64_t apart) {
  if constexpr (kSideBySide) {
    auto const found = *reinterpret_cast<Vec<float, kAddTogether> const*>(sums);
#pragma unroll
    for (int i = 0; i < kAddTogether; ++i) part[i] = found.lane[i];
  } else {
#pragma unroll
    for (int i = 0; i < kAddTogether; ++i) part[i] = sums[i * apart];
  }
}

template <bool kSideBySide>
__device__ void add_partial_sums(float (&sum)[kAddTogether], float const* sums, int64_t apart, int splits,
                                 int64_t split_size) {
  for (int split = 0; split < splits; split += kAddAhead, sums += kAddAhead * split_size) {
    float part[kAddAhead][kAddTogether] = {};
#pragma unroll
    for (int j = 0; j < kAddAhead; ++j)
      if (split + j < splits) load_partial_sums<kSideBySide>(part[j], sums + j * split_size, apart);
#pragma unroll
    for (int j = 0; j < kAddAhead; ++j) {
#pragma unroll
      for (int i = 0; i < kAddTogether; ++i) sum[i] += part[j][i];
    }
  }
}

// Which sums a thread of deform_conv2d_add_kernel adds: of one position. Threads side by side have positions side by
// side or, where y has channels last, channels.
struct AddedSums {
  int position, channel, apart;  // channel: the first of kAddTogether, which are `apart`
  int64_t first;                 // where it lies in a tile of sums

  __device__ AddedSums(DeformConv2dPlan const& plan, bool channels_last, int item) {
    int const quarter = plan.tile_channels / kAddTogether;
    int const row = item / (channels_last ? quarter : plan.tile_positions);
    int const in_row = item - row * (channels_last ? quarter : plan.tile_positions);
    position = channels_last ? row : in_row;
    channel = channels_last ? in_row * kAddTogether : row;
    apart = channels_last ? 1 : quarter;
    first = channels_last ? int64_t(position) * plan.tile_channels + channel
                          : int64_t(channel) * plan.tile_positions + position;
  }
};

// y: in the first of the thread's output channels; `left` of them and those after it are in its group.
template <class T>
__device__ void write_added_sums(DeformConv2dArguments<T> const& a, T* y, int64_t out, int apart, int64_t left,
                                 float const (&sum)[kAddTogether]) {
  Vec<T, kAddTogether> results;
#pragma unroll
  for (int i = 0; i < kAddTogether; ++i) {
    float const bias = a.bias && i * apart < left ? to_float(a.bias[out + i * apart]) : 0.f;
    results.lane[i] = from_float<T>(a.activation(sum[i] + bias));
  }
  if (a.y_channels_last && left >= kAddTogether && reinterpret_cast<uintptr_t>(y) % sizeof(results) == 0) {
    *reinterpret_cast<Vec<T, kAddTogether>*>(y) = results;
    return;
  }
  int64_t const apart_in_y = apart * a.y_apart();
#pragma unroll
  for (int i = 0; i < kAddTogether; ++i)
    if (i * apart < left) y[i * apart_in_y] = results.lane[i];
}

// Adds the sums of the blocks that share a tile. Grid: x over tiles of positions, y over tiles of output channels, z
// over parts of kPackThreads * kAddTogether elements of a tile.
template <class T>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_add_kernel(
    DeformConv2dArguments<T> a, DeformConv2dPlan plan,
    float const* sums) {  // [splits, groups * tiles, tiles of positions], and tiles as store_partial_sums has them
  wait_for_kernel_before();
  AddedSums const own(plan, a.y_channels_last, static_cast<int>(blockIdx.z * kPackThreads + threadIdx.x));
  OutputPosition const at = tile_position(a, plan.positions, plan.tile_positions, blockIdx.x, own.position);
  int64_t const in_group = int64_t(blockIdx.y % plan.tiles) * plan.tile_channels + own.channel;
  int64_t const left = plan.group_out - in_group, out = blockIdx.y / plan.tiles * plan.group_out + in_group;
  if (!at.valid || left <= 0) return;
  sums += (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * plan.tile_size() + own.first;
  int64_t const split_size = plan.tile_size() * gridDim.x * gridDim.y, apart = own.apart * plan.tile_positions;
  float sum[kAddTogether] = {};
  if (a.y_channels_last) {
    add_partial_sums<true>(sum, sums, apart, plan.splits, split_size);
  } else {
    add_partial_sums<false>(sum, sums, apart, plan.splits, split_size);
  }
  T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out * a.y_apart();
  write_added_sums(a, y, out, own.apart, left, sum);
}

// Writes a block's sums: as they are where several blocks share the tile, else as results, by way of shared memory.
template <class T, class Product>
__device__ void write_sums(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                           PackedOperands<T> const& packed, int group, int tile, Product const& product,
                           unsigned char* memory, int wide) {
  if (plan.splits > 1) {
    store_partial_sums<Product::kPositions, Product::kChannels>(
        partial_sums(packed, Product::kPositions * Product::kChannels), a.y_channels_last,
        [&](auto visit) { product.each(visit); });
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
