// Attention of each query to an interval of the keys of a paged cache: which kernel computes it.
#pragma once

#include "core/device.h"
#include "kernels/paged_window_attention/exact.cuh"
#include "kernels/paged_window_attention/mma.cuh"
#include "kernels/window_attention/launch.cuh"

namespace bridge {

// The most keys that a tile of rows sees, as far as the host knows it: lengths are on the device.
template <class T>
int64_t most_keys_seen(PagedArguments<T> const& a, int tile_rows) {
  if (a.window_left == kNoWindow || a.window_right == kNoWindow) return a.keys;
  int64_t const positions = ceil_divide(tile_rows, a.ratio()) + 1;
  return least(a.keys, positions + a.window_left + a.window_right);
}

template <class Tile>
cudaError_t launch_paged_tiles(PagedArguments<typename Tile::T> const& a, void* workspace, cudaStream_t stream) {
  int64_t const tiles = int64_t(a.batch) * a.groups * ceil_divide(int64_t(a.queries) * a.ratio(), Tile::kRows);
  // Few rows are bound by memory, and want more blocks than fit at once.
  int const blocks = Tile::kShares > 1 ? 2 * Tile::kResidents : Tile::kResidents;
  int64_t const key_tiles = ceil_divide(most_keys_seen(a, Tile::kRows), Tile::kKeys);
  int const splits = workspace ? attention_splits(a.rows(), tiles, blocks, key_tiles) : 1;
  AttentionParts const parts = attention_parts(a, splits, workspace);
  auto const kernel = paged_window_attention_mma_kernel<Tile>;
  cudaError_t const status = launch_tiles<Tile>(kernel, a, tiles * splits, parts, stream);
  return status == cudaSuccess && splits > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

// kRowTiles: of the tiles for many rows.
template <class T, int kHeadDim, int kRowTiles>
cudaError_t launch_paged_width(PagedArguments<T> const& a, void* workspace, cudaStream_t stream) {
  using Few = MmaTile<T, kHeadDim, 1, 4, 64>;
  using Many = MmaTile<T, kHeadDim, kRowTiles, 1, 64>;
  static_assert(std::max(Many::kRows, Many::kKeys) <= kMostTileExtent);
  bool const few = int64_t(a.queries) * a.ratio() <= Few::kRows;
  return few ? launch_paged_tiles<Few>(a, workspace, stream) : launch_paged_tiles<Many>(a, workspace, stream);
}

// workspace may be null: keys are not split then.
template <class T>
cudaError_t launch_paged_window_attention(PagedArguments<T> const& a, Device const& device, void* workspace,
                                          cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && takes_whole_chunks(a)) {
      auto const launch = a.head_dim <= 64    ? launch_paged_width<T, 64, 2>
                          : a.head_dim <= 96  ? launch_paged_width<T, 96, 2>
                          : a.head_dim <= 128 ? launch_paged_width<T, 128, 2>
                                              : launch_paged_width<T, 256, 1>;
      return launch(a, workspace, stream);
    }
  }
  return launch_exact(paged_window_attention_exact_kernel<T>, a, stream);
}

}  // namespace bridge
