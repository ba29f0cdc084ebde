// The warp that fetches, of block-sparse attention by wgmma: queries, and tiles of keys and of values in turn, some
// ahead of the warpgroups that multiply.
#pragma once

#include "kernels/block_sparse_attention/wgmma_keys.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// One lane's share. Tiles are counted from the block's beginning.
template <class Tile>
struct SparseCopies {
  using T = typename Tile::T;
  using Rows = SparseRows<T>;

  BlockSparseArguments<T> const& a;
  SparseMaps const& maps;
  SparseShared<Tile>& shared;
  int lane = threadIdx.x % 32;
  int started = 0, fetched_queries = 0;

  // Of an item of work; it has at least one tile, for those who multiply to know that there is none.
  __device__ void fetch(Rows const& rows, int splits) {
    MaskKeys<Tile> source(rows, splits, maps.piece);
    bool more = true;
    for (bool first = true; more; first = false, ++started) {
      int const key = source.next();
      more = source.more();
      wait(shared.empty[stage()][0], started / Tile::kStages);
      record(key, source.keys, !more);
      fetch_tile(maps.k, 0, rows, key);
      if (first) fetch_queries(rows);
      wait(shared.empty[stage()][1], started / Tile::kStages);
      fetch_tile(maps.v, 1, rows, key);
    }
  }

 private:
  __device__ int stage() const { return started % Tile::kStages; }

  // Until a place is empty for the `round`-th time after the first.
  __device__ static void wait(SharedBarrier& barrier, int round) { barrier.wait((round + 1) % 2); }

  __device__ void record(int key, KeyInterval keys, bool last) {
    SparseRecord& record = shared.record(started);
    bool const mine = lane < Tile::kPieces, read = mine && key < a.keys;
    bool const cut = read && (key < keys.begin || min(key + kPieceKeys, a.keys) > keys.end);
    bool const any_cut = __any_sync(~0u, cut);
    if (mine) record.key[lane] = key;
    if (lane == 0) record.keys = keys, record.last = last, record.cut = any_cut;
  }

  __device__ void expect(SharedBarrier& barrier, int bytes) {
    __syncwarp();
    if (lane == 0) barrier.arrive_and_expect(bytes);
    __syncwarp();
  }

  // What a tile lacks is a box beyond the tensor: zeros.
  __device__ void fetch_tile(CUtensorMap const& map, int which, Rows const& rows, int key) {
    SharedBarrier& full = shared.full[stage()][which];
    expect(full, Tile::kKeyBytes);
    int const row = lane * kPieceKeys;
    if (row >= Tile::kKeys || row % maps.piece != 0) return;
    uint32_t const to = shared_address(shared.tile[stage()][which]) + row * Tile::kRowBytes;
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part)
      copy_box(to + part * Tile::kKeys * Tile::kRowBytes, map, full, part * 64, min(key, a.keys), rows.group,
               rows.batch);
  }

  __device__ void fetch_queries(Rows const& rows) {
    int const place = fetched_queries % Tile::kQueryTiles;
    wait(shared.q_empty[place], fetched_queries++ / Tile::kQueryTiles);
    int const packed = rows.packed();
    expect(shared.q_full[place], Tile::kParts * Tile::rows(packed) * Tile::kRowBytes);
    if (lane >= Tile::kParts) return;
    uint32_t const to = shared_address(shared.q[place]) + lane * Tile::kRows * Tile::kRowBytes;
    copy_box(to, maps.q, shared.q_full[place], lane * 64, 0, rows.query(0), rows.head(0) / packed, rows.batch);
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
