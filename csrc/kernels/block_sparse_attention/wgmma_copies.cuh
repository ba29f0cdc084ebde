// The warp that fetches, of block-sparse attention by wgmma: tiles of the keys that the mask has.
#pragma once

#include "kernels/block_sparse_attention/wgmma_keys.cuh"
#include "kernels/window_attention/wgmma_copies.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct SparseCopies : WgmmaCopies<SparseShared<Tile>> {
  using T = typename Tile::T;
  using Rows = SparseRows<T>;
  using Base = WgmmaCopies<SparseShared<Tile>>;
  using Base::await_empty, Base::lane, Base::shared, Base::started;

  BlockSparseArguments<T> const& a;
  int const box_keys;

  __device__ SparseCopies(BlockSparseArguments<T> const& a, AttentionMaps const& maps, SparseShared<Tile>& shared,
                          int box_keys)
      : Base(maps, shared), a(a), box_keys(box_keys) {}

  // Of an item of work; it has at least one tile, for those who multiply to know that there is none.
  __device__ void fetch(Rows const& rows, int splits) {
    MaskKeys<Tile> source(rows, splits, box_keys);
    bool more = true;
    for (bool first = true; more; first = false, ++started) {
      int const key = source.next();
      more = source.more();
      await_empty(0);
      record(key, source.keys, !more);
      fetch_tile(0, rows, key);
      if (first) fetch_queries(rows);
      await_empty(1);
      fetch_tile(1, rows, key);
    }
  }

 private:
  // All by the lane that tells of it, which is the order that racecheck knows.
  __device__ void record(int key, KeyInterval keys, bool last) {
    SparseRecord& record = shared.record(started);
    bool const read = lane < kTilePieces<Tile> && key < a.keys;
    bool const cut = read && (key < keys.begin || min(key + kPieceKeys, a.keys) > keys.end);
    bool const any_cut = __any_sync(~0u, cut);
#pragma unroll
    for (int i = 0; i < kTilePieces<Tile>; ++i) {
      int const first = __shfl_sync(~0u, key, i);
      if (lane == 0) record.key[i] = first;
    }
    if (lane == 0) record.keys = keys, record.last = last, record.cut = any_cut;
  }

  __device__ void fetch_queries(Rows const& rows) {
    Base::await_empty_queries();
    Base::fetch_queries(a.packed, rows.query(0), rows.head(0) / a.packed, rows.batch);
  }
  // What a tile lacks is a box beyond the tensor.
  __device__ void fetch_tile(int which, Rows const& rows, int key) {
    Base::template fetch_tile<kPieceKeys>(which, box_keys, min(key, a.keys), rows.group, rows.batch);
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
