// The steps of a warpgroup that multiplies, of attention by wgmma. While it computes the weights of one tile of keys,
// its products of the tile before are under way (Shah et al., https://arxiv.org/abs/2407.08608, section 3.2), and those
// of other warpgroups (section 3.1).
#pragma once

#include "kernels/window_attention/wgmma_rows.cuh"
#include "kernels/window_attention/wgmma_tile.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// Tiles and items of work are counted from the block's beginning. which: 0 for keys, 1 for values.
template <class Arguments, class Shared>
struct WgmmaSteps : WgmmaRows<typename Shared::Tile> {
  using Tile = typename Shared::Tile;
  using Base = WgmmaRows<Tile>;
  using Base::pack, Base::product, Base::warpgroup;
  static constexpr int kFirstTurn = 1, kFirstClear = kFirstTurn + Tile::kGroups;  // numbers of barriers
  static constexpr int kSlack = 8;                                                // see OnlineSoftmax

  Arguments const& a;
  Shared& shared;
  uint32_t taken = 0, items = 0;

  __device__ WgmmaSteps(Arguments const& a, Shared& shared) : a(a), shared(shared) {
    if (warpgroup == Tile::kGroups - 1) pass_turn();  // the first one's comes first
  }

  __device__ void wait(uint32_t tile, int which) { shared.full[stage(tile)][which].wait(tile / Tile::kStages % 2); }
  __device__ void release(uint32_t tile, int which) { Base::release(shared.empty[stage(tile)][which]); }
  __device__ void await_queries() { shared.q_full[query_tile()].wait(items / Tile::kQueryTiles % 2); }
  __device__ void release_queries() { Base::release(shared.q_empty[query_tile()]); }

  // Leaves tile `taken`, whose keys are there, to others.
  __device__ void skip() {
    release(taken, 0);
    wait(taken, 1);
    release(taken++, 1);
  }

  // The weights of tile `taken`, whose keys are there.
  template <class Keys>
  __device__ void multiply_first(Keys const& keys, float (&factor)[2]) {
    start_products(taken);
    wait_for_wgmma<0>();
    hold_registers(product);
    release(taken, 0);
    Base::template weigh<kSlack>(a, keys, factor);
    pack();
  }

  // The weights of the tile after `taken`, whose keys are there, and meanwhile what those of `taken` add. amend: is
  // called with a tile whose values have arrived.
  template <class Keys, class Amend>
  __device__ void multiply_and_sum(Keys const& keys, float (&factor)[2], Amend amend) {
    await_turn();
    start_products(taken + 1);
    wait(taken, 1);
    amend(taken);
    start_sums(taken);
    pass_turn();
    wait_for_wgmma<1>();
    hold_registers(product);
    release(taken + 1, 0);
    Base::template weigh<kSlack>(a, keys, factor);
    Base::end_sums(factor);
    release(taken++, 1);
    pack();
  }

  // What the weights of tile `taken` add.
  template <class Amend>
  __device__ void sum_values(Amend amend) {
    wait(taken, 1);
    amend(taken);
    start_sums(taken);
    Base::end_sums();
    release(taken++, 1);
  }

  // Values that no row sees become zeros, which a weight of 0 leaves so. Each warpgroup does it for itself. unseen: of
  // row `row` of the tile.
  template <class Unseen>
  __device__ void clear_values(uint32_t tile, Unseen unseen) {
    for (int row = threadIdx.x % Tile::kWarpgroup; row < Tile::kKeys; row += Tile::kWarpgroup) {
      if (!unseen(row)) continue;
      unsigned char* const to = values(tile) + row * Tile::kRowBytes;
#pragma unroll
      for (int i = 0; i < Tile::kParts * Tile::kRowBytes / kAccessBytes; ++i) {
        int const chunk = i / 8 * Tile::kKeys * 8 + (i + row) % 8;  // neighbouring threads write to other banks
        reinterpret_cast<uint4*>(to)[chunk] = {0, 0, 0, 0};
      }
    }
    publish_to_wgmma();
    synchronize_some(kFirstClear + warpgroup, Tile::kWarpgroup);
  }

 private:
  __device__ static uint32_t stage(uint32_t tile) { return tile % Tile::kStages; }
  __device__ uint32_t query_tile() const { return items % Tile::kQueryTiles; }
  __device__ unsigned char* values(uint32_t tile) { return shared.tile[stage(tile)][1]; }

  __device__ void start_products(uint32_t tile) {
    Base::start_products(shared.q[query_tile()], shared.tile[stage(tile)][0]);
  }
  __device__ void start_sums(uint32_t tile) { Base::start_sums(values(tile)); }

  __device__ void await_turn() {
    if constexpr (Tile::kAlternates) synchronize_some(kFirstTurn + warpgroup, 2 * Tile::kWarpgroup);
  }
  __device__ void pass_turn() {
    if constexpr (Tile::kAlternates) arrive_at(kFirstTurn + (warpgroup + 1) % Tile::kGroups, 2 * Tile::kWarpgroup);
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
