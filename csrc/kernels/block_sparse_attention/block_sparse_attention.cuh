// Attention of each block of queries to some blocks of keys: which kernel computes it.
#pragma once

#include <numeric>

#include "core/device.h"
#include "kernels/block_sparse_attention/exact.cuh"
#include "kernels/block_sparse_attention/mma.cuh"
#include "kernels/block_sparse_attention/wgmma.cuh"
#include "kernels/window_attention/launch.cuh"

namespace bridge {

// Of 16-bit types: the kernel for every GPU, or that of compute capability 9.0.
enum class BlockSparseWay { kMma = 0, kWgmma = 1 };

// Of a block of queries.
template <class T>
int64_t rows_of_block(BlockSparseArguments<T> const& a) {
  return least(a.query_block, a.queries) * a.packed;
}
// Of rows, all together.
template <class T>
int64_t row_tiles(BlockSparseArguments<T> const& a, int tile_rows) {
  return int64_t(a.batch) * (a.heads / a.packed) * a.query_blocks * ceil_divide(rows_of_block(a), tile_rows);
}

// False where the kernel does not take the tensors.
template <class Tile>
bool try_block_sparse_wgmma(BlockSparseArguments<typename Tile::T> const& a, void* workspace, cudaStream_t stream,
                            cudaError_t& status) {
  static_assert(Tile::kResidents > 1);
  SparseMaps maps;
  if (!make_sparse_maps<Tile>(maps, a, std::gcd(a.key_block, Tile::kKeys))) return false;
  int64_t const tiles = row_tiles(a, Tile::rows(a.packed)), key_tiles = ceil_divide(a.keys, Tile::kKeys);
  int const splits = workspace ? attention_splits(a.rows(), tiles, Tile::kResidents, key_tiles) : 1;
  int64_t const items = tiles * splits;
  AttentionParts const parts = attention_parts(a, splits, workspace);
  constexpr int kShared = sizeof(SparseShared<Tile>);
  auto const kernel = block_sparse_attention_wgmma_kernel<Tile>;
  status = items > kMaxGridX ? cudaErrorInvalidValue : allow_shared(kernel, kShared);
  if (status != cudaSuccess) return true;
  // Items differ in their keys: several blocks fit at once, and each takes one, so that none waits for another.
  kernel<<<static_cast<unsigned>(items), Tile::kThreads, kShared, stream>>>(a, parts, maps, static_cast<int>(items));
  status = cudaGetLastError();
  if (status == cudaSuccess && splits > 1) status = launch_window_attention_combine(a, parts, stream);
  return true;
}

template <class T>
bool try_block_sparse_wgmma_rows(BlockSparseArguments<T> const& a, void* workspace, cudaStream_t stream,
                                 cudaError_t& status) {
  int64_t const rows = rows_of_block(a);
  if (a.head_dim > kSparseWgmmaHeadDim || rows <= 16) return false;
  auto const launch = rows <= SomeSparseRows<T>::kRows ? try_block_sparse_wgmma<SomeSparseRows<T>>
                                                       : try_block_sparse_wgmma<ManySparseRows<T>>;
  return launch(a, workspace, stream, status);
}

template <class Tile>
cudaError_t launch_block_sparse_tiles(BlockSparseArguments<typename Tile::T> const& a, void* workspace,
                                      cudaStream_t stream) {
  int64_t const tiles = row_tiles(a, Tile::kRows);
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
  int64_t const rows = rows_of_block(a);
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
cudaError_t launch_block_sparse_attention(BlockSparseArguments<T> const& a, BlockSparseWay way, Device const& device,
                                          void* workspace, cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    bool const whole_pieces = a.key_block % kPieceKeys == 0;
    if (device.capability >= 80 && whole_pieces && takes_whole_chunks(a)) {
      bool const wgmma = device.capability == 90 && way == BlockSparseWay::kWgmma;
      cudaError_t status = cudaSuccess;
      if (wgmma && try_block_sparse_wgmma_rows(a, workspace, stream, status)) return status;
      return launch_block_sparse_halves(a, workspace, stream);
    }
  }
  return launch_exact(block_sparse_attention_exact_kernel<T>, a, stream);
}

}  // namespace bridge
