// What the kernels of block-sparse attention are given, beside what those of window attention are.
#pragma once

#include "kernels/window_attention/arguments.cuh"

namespace bridge {

constexpr int kPieceKeys = 16;  // neighbouring ones, of which tiles are made

template <class T>
struct BlockSparseArguments : WindowAttentionArguments<T> {
  void const* block_mask;        // [batch or 1, mask_heads, query_blocks, key_blocks] of bool or int32
  bool wide_mask, one_mask;      // int32; one for the whole batch
  int mask_heads;                // divides heads
  int query_blocks, key_blocks;  // their numbers
  int query_block, key_block;    // queries and keys of one
  int packed;                    // heads, one after the other, that share a key head and a mask
  int together;                  // packs of heads whose blocks are computed side by side, by wgmma
};

// Of a head and a block of queries.
struct MaskRow {
  void const* first;
  bool wide;

  template <class T>
  __device__ MaskRow(BlockSparseArguments<T> const& a, int batch, int head, int query_block) : wide(a.wide_mask) {
    int64_t const of_head = int64_t(a.one_mask ? 0 : batch) * a.mask_heads + head / (a.heads / a.mask_heads);
    int64_t const place = (of_head * a.query_blocks + query_block) * a.key_blocks;
    first = static_cast<unsigned char const*>(a.block_mask) + place * (wide ? sizeof(int32_t) : 1);
  }
  __device__ bool has(int key_block) const {
    return wide ? static_cast<int32_t const*>(first)[key_block] != 0
                : static_cast<unsigned char const*>(first)[key_block] != 0;
  }
};

}  // namespace bridge
