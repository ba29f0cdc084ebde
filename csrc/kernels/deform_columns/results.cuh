// Sums of the product on their way to the result, by way of shared memory. Blocks that share a tile's stages each write
// a part of it: a row is a channel, with positions side by side, or a position, where the result has channels last.
#pragma once

#include "kernels/deform_columns/tile.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// Which rows of `count` are this block's.
struct ColumnRows {
  int first, end;

  __device__ ColumnRows(ClusterPlace const& place, int count)
      : first(count * static_cast<int>(place.at[2]) / static_cast<int>(place.count[2])),
        end(count * (static_cast<int>(place.at[2]) + 1) / static_cast<int>(place.count[2])) {}
};

// kWide sums of all blocks that share the tile, from the same place of each.
template <int kWide>
__device__ void add_column_sums(float (&sum)[kWide], float const* place, ClusterPlace const& block) {
  constexpr uint32_t kTogether = 4;  // blocks that are asked at once
  uint32_t const from = shared_address(place), blocks = block.count[2];
#pragma unroll
  for (int j = 0; j < kWide; ++j) sum[j] = 0.f;
#pragma unroll 1
  for (uint32_t first = 0; first < blocks; first += kTogether) {
    float part[kTogether][kWide] = {};
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i)
      if (first + i < blocks)
        load_shared_in(part[i], shared_address_in(from, block.rank(block.at[0], block.at[1], first + i)));
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) sum[j] += part[i][j];
    }
  }
}

// kWide positions of a channel at a time.
template <class T, class Tile, int kWide>
__device__ void write_column_rows(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, unsigned tile,
                                  ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared) {
  constexpr int kVectors = Tile::kPositions / kWide, kStep = Tile::kConsumers / kVectors;
  int const first = threadIdx.x % kVectors * kWide;
  OutputPosition const at = tile_position(a, plan.positions, Tile::kPositions, tile, first);
  if (!at.valid) return;  // nor are there any after it
  int64_t const plane = a.out_plane();
  T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + block.out_first * plane;
  ColumnRows const rows(block.place, Tile::kChannels);
  int const end = min(rows.end, static_cast<int>(block.rows));
  for (int row = rows.first + threadIdx.x / kVectors; row < end; row += kStep) {
    float sum[kWide];
    add_column_sums(sum, shared.sums() + row * Tile::kPitch + first, block.place);
    Vec<T, kWide> results;
#pragma unroll
    for (int j = 0; j < kWide; ++j) results.lane[j] = from_float<T>(a.activation(sum[j] + shared.bias[row]));
    *reinterpret_cast<Vec<T, kWide>*>(y + row * plane) = results;
  }
}

// kWide channels of a position at a time.
template <class T, class Tile, int kWide>
__device__ void write_column_pixels(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, unsigned tile,
                                    ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared) {
  constexpr int kVectors = Tile::kChannels / kWide, kStep = Tile::kConsumers / kVectors;
  int const first = threadIdx.x % kVectors * kWide;
  if (first >= block.rows) return;
  ColumnRows const rows(block.place, Tile::kPositions);
  for (int row = rows.first + threadIdx.x / kVectors; row < rows.end; row += kStep) {
    OutputPosition const at = tile_position(a, plan.positions, Tile::kPositions, tile, row);
    if (!at.valid) continue;
    float sum[kWide];
    add_column_sums(sum, shared.sums() + row * Tile::kPixelPitch + first, block.place);
    Vec<T, kWide> results;
#pragma unroll
    for (int j = 0; j < kWide; ++j) results.lane[j] = from_float<T>(a.activation(sum[j] + shared.bias[first + j]));
    T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + block.out_first + first;
    *reinterpret_cast<Vec<T, kWide>*>(y) = results;
  }
}

template <class T, class Tile, int kWide>
__device__ void write_column_results(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, unsigned tile,
                                     ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared) {
  if (a.y_channels_last) {
    write_column_pixels<T, Tile, kWide>(a, plan, tile, block, shared);
  } else {
    write_column_rows<T, Tile, kWide>(a, plan, tile, block, shared);
  }
}

// Puts this thread's sums, which lie in it as in WarpProduct, into shared memory.
template <class Tile>
__device__ void store_column_sums(ColumnShared<Tile>& shared, float const (&sum)[Tile::kChannels / 2],
                                  bool channels_last) {
  int const lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < Tile::kChannels / 2; i += 2) {
    int const position = first + i / 2 % 2 * 8, channel = i / 4 * 8 + lane % 4 * 2;
    if (channels_last) {
      auto* const pair = reinterpret_cast<float2*>(shared.sums() + position * Tile::kPixelPitch + channel);
      *pair = {sum[i], sum[i + 1]};
    } else {
      float* const to = shared.sums() + channel * Tile::kPitch + position;
      to[0] = sum[i], to[Tile::kPitch] = sum[i + 1];
    }
  }
}

// By the multiplying warpgroups. wide: see results_together.
template <class T, class Tile>
__device__ void finish_columns(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, unsigned tile,
                               ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared,
                               float const (&sum)[Tile::kChannels / 2], int wide) {
  synchronize_some(1, Tile::kConsumers);  // stages are no longer read
  store_column_sums(shared, sum, a.y_channels_last);
  synchronize_some(1, Tile::kConsumers);
  if (block.place.blocks() > 1) synchronize_cluster();
  if (!block.counts) return;
  if (wide == 8) {
    write_column_results<T, Tile, 8>(a, plan, tile, block, shared);
  } else if (wide == 2) {
    write_column_results<T, Tile, 2>(a, plan, tile, block, shared);
  } else {
    write_column_results<T, Tile, 1>(a, plan, tile, block, shared);
  }
}

#endif  // BRIDGE_WGMMA

}  // namespace bridge
