// Block-sparse attention by mma.sync, from compute capability 8.0 on: the loop of window attention, over tiles made of
// the keys that the mask has.
#pragma once

#include "kernels/block_sparse_attention/tiles.cuh"
#include "kernels/window_attention/mma.cuh"

namespace bridge {

// One dimension of blocks, see BlockRows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) block_sparse_attention_mma_kernel(
    BlockSparseArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using Rows = BlockRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  if (rows.empty()) return;
  MmaAttention<Tile, Rows> attention(a, rows, memory);
  attention.copy_queries();
  walk_listed<Tile>(a, rows, parts.count, attention);
  wait_for_copies();
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
