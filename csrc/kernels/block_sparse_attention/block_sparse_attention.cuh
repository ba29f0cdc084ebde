// Attention of each block of queries to some blocks of keys: which kernel computes it.
#pragma once

#include <numeric>
#include <optional>

#include "core/device.h"
#include "kernels/block_sparse_attention/exact.cuh"
#include "kernels/block_sparse_attention/fma.cuh"
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

// Nothing where the kernel does not take the tensors.
template <class Tile>
std::optional<cudaError_t> try_block_sparse_wgmma(BlockSparseArguments<typename Tile::T> const& a, int multiprocessors,
                                                  void* workspace, cudaStream_t stream) {
  int const box_keys = std::gcd(a.key_block, Tile::kKeys);
  AttentionMaps maps;
  if (!make_attention_maps<Tile>(maps, a, a.packed, box_keys)) return {};
  int64_t const tiles = row_tiles(a, Tile::queries(a.packed) * a.packed), key_tiles = ceil_divide(a.keys, Tile::kKeys);
  int const splits = workspace ? attention_splits(a.rows(), tiles, Tile::kResidents, key_tiles) : 1;
  int64_t const items = tiles * splits;
  // Items differ in their keys: where several blocks fit at once, each takes one, so that none waits for another.
  int64_t const blocks = Tile::kResidents > 1 ? items : least(items, multiprocessors);
  SparseItems const all{box_keys, static_cast<int>(items)};
  return launch_wgmma<SparseShared<Tile>>(block_sparse_attention_wgmma_kernel<Tile>, blocks, items, a,
                                          attention_parts(a, splits, workspace), maps, all, stream);
}

// Of blocks with some rows, or with many.
template <class Some, class Many, class T>
std::optional<cudaError_t> try_block_sparse_wgmma_width(BlockSparseArguments<T> const& a, int multiprocessors,
                                                        void* workspace, cudaStream_t stream) {
  auto const launch = rows_of_block(a) <= Some::kRows ? try_block_sparse_wgmma<Some> : try_block_sparse_wgmma<Many>;
  return launch(a, multiprocessors, workspace, stream);
}

template <class T>
std::optional<cudaError_t> try_block_sparse_wgmma_rows(BlockSparseArguments<T> const& a, int multiprocessors,
                                                       void* workspace, cudaStream_t stream) {
  if (rows_of_block(a) <= 16) return {};
  auto const launch =
      a.head_dim <= 64
          ? try_block_sparse_wgmma_width<WgmmaTile<T, 64, 1, 64, 4, 1, 3>, WgmmaTile<T, 64, 2, 64, 4, 2, 2>, T>
      : a.head_dim <= 128
          ? try_block_sparse_wgmma_width<WgmmaTile<T, 128, 1, 64, 3, 1, 2>, WgmmaTile<T, 128, 2, 128, 2>, T>
          : try_block_sparse_wgmma_width<WgmmaTile<T, 256, 1, 64, 2, 1>, WgmmaTile<T, 256, 2, 64, 2, 1>, T>;
  return launch(a, multiprocessors, workspace, stream);
}

template <class Tile>
auto block_sparse_kernel() {
  if constexpr (kIsFmaTile<Tile>) {
    return block_sparse_attention_fma_kernel<Tile>;
  } else {
    return block_sparse_attention_mma_kernel<Tile>;
  }
}

template <class Tile>
cudaError_t launch_block_sparse_tiles(BlockSparseArguments<typename Tile::T> const& a, void* workspace,
                                      cudaStream_t stream) {
  int64_t const tiles = row_tiles(a, Tile::kRows);
  // Few rows are bound by memory, and want more blocks than fit at once; blocks without tensor cores are slow, and wait
  // for those with the most keys.
  int const blocks = Tile::kRows <= 16 || kIsFmaTile<Tile> ? 2 * Tile::kResidents : Tile::kResidents;
  int const splits = workspace ? attention_splits(a.rows(), tiles, blocks, ceil_divide(a.keys, Tile::kKeys)) : 1;
  AttentionParts const parts = attention_parts(a, splits, workspace);
  auto const kernel = block_sparse_kernel<Tile>();
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

template <class T>
cudaError_t launch_block_sparse_fma(BlockSparseArguments<T> const& a, void* workspace, cudaStream_t stream) {
  bool const few = rows_of_block(a) <= 16;
  auto const launch =
      a.head_dim <= 64    ? few ? launch_block_sparse_tiles<FmaFew<T, 64>> : launch_block_sparse_tiles<FmaMany<T, 64>>
      : a.head_dim <= 128 ? few ? launch_block_sparse_tiles<FmaFew<T, 128>> : launch_block_sparse_tiles<FmaMany<T, 128>>
      : few               ? launch_block_sparse_tiles<FmaFew<T, 256>>
                          : launch_block_sparse_tiles<FmaMany<T, 256>>;
  return launch(a, workspace, stream);
}

// workspace may be null: keys are not split then.
template <class T>
cudaError_t launch_block_sparse_attention(BlockSparseArguments<T> const& a, BlockSparseWay way, Device const& device,
                                          void* workspace, cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  bool const whole_pieces = a.key_block % kPieceKeys == 0;
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && whole_pieces && takes_whole_chunks(a)) {
      std::optional<cudaError_t> status;
      if (device.capability == 90 && way == BlockSparseWay::kWgmma)
        status = try_block_sparse_wgmma_rows(a, device.multiprocessors, workspace, stream);
      return status ? *status : launch_block_sparse_halves(a, workspace, stream);
    }
  }
  return whole_pieces ? launch_block_sparse_fma(a, workspace, stream)
                      : launch_exact(block_sparse_attention_exact_kernel<T>, a, stream);
}

}  // namespace bridge
