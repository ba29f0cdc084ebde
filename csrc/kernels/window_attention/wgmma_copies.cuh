// The warp that fetches, of attention by wgmma: queries, and tiles of keys and of values in turn, some ahead of the
// warpgroups that multiply.
#pragma once

#include "kernels/window_attention/wgmma_tile.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// One lane's share. Tiles are counted from the block's beginning. which: 0 for keys, 1 for values.
template <class Shared>
struct WgmmaCopies {
  using Tile = typename Shared::Tile;

  AttentionMaps const& maps;
  Shared& shared;
  int lane = threadIdx.x % 32;
  uint32_t started = 0, fetched_queries = 0;

  __device__ WgmmaCopies(AttentionMaps const& maps, Shared& shared) : maps(maps), shared(shared) {}

  __device__ void await_empty_queries() {
    wait(shared.q_empty[fetched_queries % Tile::kQueryTiles], fetched_queries / Tile::kQueryTiles);
  }
  __device__ void await_empty(int which) { wait(shared.empty[stage()][which], started / Tile::kStages); }

  // pack: number of the first of `packed` heads, by packs.
  __device__ void fetch_queries(int packed, int first_query, int pack, int batch) {
    uint32_t const index = fetched_queries++ % Tile::kQueryTiles;
    expect(shared.q_full[index], Tile::kParts * Tile::queries(packed) * packed * Tile::kRowBytes);
    if (lane >= Tile::kParts) return;
    uint32_t const to = shared_address(shared.q[index]) + lane * Tile::kRows * Tile::kRowBytes;
    copy_box(to, maps.q, shared.q_full[index], lane * 64, 0, first_query, pack, batch);
  }

  // In boxes of `box_keys`: lane i fetches the one that begins with row kLaneKeys i of the tile, of which it knows the
  // key. What lies beyond the tensor is zeros.
  template <int kLaneKeys>
  __device__ void fetch_tile(int which, int box_keys, int key, int group, int batch) {
    SharedBarrier& full = shared.full[stage()][which];
    expect(full, Tile::kKeyBytes);
    int const row = lane * kLaneKeys;
    if (row >= Tile::kKeys || row % box_keys != 0) return;
    uint32_t const to = shared_address(shared.tile[stage()][which]) + row * Tile::kRowBytes;
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part)
      copy_box(to + part * Tile::kKeys * Tile::kRowBytes, which == 0 ? maps.k : maps.v, full, part * 64, key, group,
               batch);
  }

 private:
  __device__ uint32_t stage() const { return started % Tile::kStages; }

  // Until a tile is empty for the `round`-th time after the first.
  __device__ static void wait(SharedBarrier& barrier, uint32_t round) { barrier.wait((round + 1) % 2); }

  __device__ void expect(SharedBarrier& barrier, int bytes) {
    __syncwarp();
    if (lane == 0) barrier.arrive_and_expect(bytes);
    __syncwarp();
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
