// Which rows a block of threads computes: of one block of queries alone, so that they share a row of the mask.
#pragma once

#include "kernels/block_sparse_attention/arguments.cuh"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

// As AttentionRows. Heads that share a key head and a mask are packed into one list of rows, query after query.
template <class T>
struct BlockRows {
  using Element = T;
  BlockSparseArguments<T> const& a;
  int batch, group, first_head, query_block, first, count;  // of the block's rows, which are `count`
  int split;

  // item: counts batch, heads by `packed`, block of queries, tile of its rows and split. The last ones come first: with
  // causal attention they have the most keys.
  __device__ BlockRows(BlockSparseArguments<T> const& a, int tile_rows, int splits, int item) : a(a) {
    int const tiles = (min(a.query_block, a.queries) * a.packed + tile_rows - 1) / tile_rows;
    int const tiles_of_head = tiles * a.query_blocks, packs = a.heads / a.packed;
    int const which = item / splits / tiles_of_head, tile = tiles_of_head - 1 - item / splits % tiles_of_head;
    split = item % splits;
    query_block = tile / tiles, first = tile % tiles * tile_rows;
    batch = which / packs, first_head = which % packs * a.packed, group = first_head / a.ratio();
    count = min(a.query_block, a.queries - query_block * a.query_block) * a.packed;
  }

  __device__ explicit BlockRows(BlockSparseArguments<T> const& a) : a(a) {}

  // Of the last, shorter block of queries a tile may have no row.
  __device__ bool empty() const { return first >= count; }
  __device__ bool has(int row) const { return first + row < count; }
  __device__ int at(int row) const { return min(first + row, count - 1); }
  __device__ int query(int row) const { return query_block * a.query_block + at(row) / a.packed; }
  __device__ int head(int row) const { return first_head + at(row) % a.packed; }
  __device__ T const* q(int row) const { return a.q.row(batch, head(row), query(row)); }
  __device__ T* out(int row) const { return a.out.row(batch, head(row), query(row)); }
  __device__ KeyInterval keys(int row) const { return seen_keys(a, batch, query(row)); }
  __device__ int64_t part_index(int row) const {
    return split * a.rows() + (int64_t(batch) * a.heads + head(row)) * a.queries + query(row);
  }
};

// Those of the kernel by wgmma, whose tiles have whole queries: a tile ends where the next one begins.
template <class T>
struct SparseRows : BlockRows<T> {
  // item: counts groups of `together` packs of heads, then the group's tiles of rows, packs and splits. Tiles with the
  // most keys come first: the last ones with causal attention, else those at both ends, which patterns often have see
  // all keys.
  __device__ SparseRows(BlockSparseArguments<T> const& a, int tile_rows, int splits, int item) : BlockRows<T>(a) {
    int const tiles = (min(a.query_block, a.queries) * a.packed + tile_rows - 1) / tile_rows;
    int const tiles_of_head = tiles * a.query_blocks, packs = a.heads / a.packed;
    this->split = item % splits, item /= splits;
    int const first_pack = item / (a.together * tiles_of_head) * a.together;
    int const here = min(a.together, a.batch * packs - first_pack), rest = item - first_pack * tiles_of_head;
    int const which = first_pack + rest % here, rank = rest / here;
    bool const causal = a.window_right == 0;
    int const tile = causal || rank % 2 == 0 ? tiles_of_head - 1 - (causal ? rank : rank / 2) : rank / 2;
    this->query_block = tile / tiles, this->first = tile % tiles * tile_rows;
    this->batch = which / packs, this->first_head = which % packs * a.packed;
    this->group = this->first_head / a.ratio();
    int const of_block = min(a.query_block, a.queries - this->query_block * a.query_block) * a.packed;
    this->count = min(this->first + tile_rows, of_block);
  }
};

}  // namespace bridge
