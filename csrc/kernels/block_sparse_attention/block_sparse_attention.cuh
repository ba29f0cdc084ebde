// Attention of each block of queries to some blocks of keys: which kernel computes it.
#pragma once

#include "core/device.h"
#include "kernels/block_sparse_attention/exact.cuh"
#include "kernels/block_sparse_attention/mma.cuh"
#include "kernels/window_attention/launch.cuh"

namespace bridge {

template <class Tile>
cudaError_t launch_block_sparse_tiles(BlockSparseArguments<typename Tile::T> const& a, void* workspace,
                                      cudaStream_t stream) {
  int64_t const rows_of_block = least(a.query_block, a.queries) * a.packed;
  int64_t const tiles =
      int64_t(a.batch) * (a.heads / a.packed) * a.query_blocks * ceil_divide(rows_of_block, Tile::kRows);
  // Few rows are bound by memory, and want more blocks than fit at once.
  int const blocks = Tile::kShares > 1 ? 2 * Tile::kResidents : Tile::kResidents;
  int const splits = workspace ? attention_splits(a.rows(), tiles, blocks, ceil_divide(a.keys, Tile::kKeys)) : 1;
  AttentionParts const parts = attention_parts(a, splits, workspace);
  auto const kernel = block_sparse_attention_mma_kernel<Tile>;
  cudaError_t const status = launch_tiles<Tile>(kernel, a, tiles * splits, parts, stream);
  return status == cudaSuccess && splits > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

// By the rows that a block of queries has. kRowTiles, kKeys: of the tiles for many rows.
template <class T, int kHeadDim, int kRowTiles, int kKeys>
cudaError_t launch_block_sparse_width(BlockSparseArguments<T> const& a, void* workspace, cudaStream_t stream) {
  using Few = MmaTile<T, kHeadDim, 1, 4, 64>;
  using Some = MmaTile<T, kHeadDim, 1, 1, kKeys>;
  using Many = MmaTile<T, kHeadDim, kRowTiles, 1, kKeys>;
  static_assert(std::max(Many::kRows, Few::kKeys) <= kMostTileExtent);
  int64_t const rows = least(a.query_block, a.queries) * a.packed;
  auto const launch = rows <= Few::kRows    ? launch_block_sparse_tiles<Few>
                      : rows <= Some::kRows ? launch_block_sparse_tiles<Some>
                                            : launch_block_sparse_tiles<Many>;
  return launch(a, workspace, stream);
}

template <class T>
cudaError_t launch_block_sparse_halves(BlockSparseArguments<T> const& a, void* workspace, cudaStream_t stream) {
  auto const launch = a.head_dim <= 64    ? launch_block_sparse_width<T, 64, 2, 64>
                      : a.head_dim <= 96  ? launch_block_sparse_width<T, 96, 2, 64>
                      : a.head_dim <= 128 ? launch_block_sparse_width<T, 128, 2, 64>
                                          : launch_block_sparse_width<T, 256, 1, 32>;
  return launch(a, workspace, stream);
}

// workspace may be null: keys are not split then.
template <class T>
cudaError_t launch_block_sparse_attention(BlockSparseArguments<T> const& a, Device const& device, void* workspace,
                                          cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    bool const whole_pieces = a.key_block % kPieceKeys == 0;
    if (device.capability >= 80 && whole_pieces && takes_whole_chunks(a))
      return launch_block_sparse_halves(a, workspace, stream);
  }
  return launch_exact(block_sparse_attention_exact_kernel<T>, a, stream);
}

}  // namespace bridge
