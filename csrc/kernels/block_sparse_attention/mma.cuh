// Block-sparse attention by mma.sync, from compute capability 8.0 on: the loop of window attention, over tiles made of
// the keys that the mask has.
#pragma once

#include "kernels/block_sparse_attention/tiles.cuh"

namespace bridge {

// One dimension of blocks, see BlockRows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) block_sparse_attention_mma_kernel(
    BlockSparseArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using List = PieceList<Tile::kThreads>;
  __shared__ List list;
  using Rows = BlockRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  if (rows.empty()) return;
  MmaAttention<Tile, Rows> attention(a, rows, memory);
  attention.copy_queries();
  KeyInterval const keys = attention.keys;
  KeyTiles const pieces({keys.begin / kPieceKeys * kPieceKeys, keys.end}, kPieceKeys, rows.split, parts.count);
  int const first_piece = keys.begin / kPieceKeys + pieces.begin, end = keys.begin / kPieceKeys + pieces.end;
  MaskRow const mask(a, rows.batch, rows.first_head, rows.query_block);
  int const pieces_of_block = a.key_block / kPieceKeys;
  for (int first = first_piece; first < end; first += List::kPieces) {
    int const count = list.fill(mask, first, end, pieces_of_block);
    attention.walk(ListedTiles<Tile>(list.piece, count, first * kPieceKeys, keys));
  }
  wait_for_copies();
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
