// Block-sparse attention by fused multiply-adds, on every GPU: the loop of window attention, over tiles made of the
// keys that the mask has.
#pragma once

#include "kernels/block_sparse_attention/tiles.cuh"
#include "kernels/window_attention/fma.cuh"

namespace bridge {

// One dimension of blocks, see BlockRows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) block_sparse_attention_fma_kernel(
    BlockSparseArguments<typename Tile::T> a, AttentionParts parts) {
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using Rows = BlockRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  if (rows.empty()) return;
  FmaAttention<Tile, Rows> attention(a, rows, memory);
  attention.copy_queries();
  walk_listed<Tile>(a, rows, parts.count, attention);
  attention.finish(parts);
}

}  // namespace bridge
