// Attention of many queries to a paged cache by wgmma, for compute capability 9.0. Two warpgroups multiply, 64 rows
// each; a third one fetches. While a warpgroup computes the weights of one tile of keys, products of the tile before
// are under way, and those of the other warpgroup (Shah et al., https://arxiv.org/abs/2407.08608, sections 3.2, 3.1).
#pragma once

#include "kernels/paged_window_attention/wgmma_copies.cuh"
#include "kernels/window_attention/wgmma_rows.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct PagedWgmma : WgmmaRows<Tile> {
  using Base = WgmmaRows<Tile>;
  using Base::pack, Base::product, Base::rescale, Base::softmax, Base::sum, Base::warpgroup;
  static constexpr int kFirstTurn = 2;  // numbers of barriers, one a warpgroup

  PagedArguments<typename Tile::T> const& a;
  PagedWgmmaShared<Tile>& shared;
  int taken = 0;  // tiles since the block began

  __device__ PagedWgmma(PagedArguments<typename Tile::T> const& a, PagedWgmmaShared<Tile>& shared)
      : a(a), shared(shared) {
    if (warpgroup == 1) give_turn();
  }

  __device__ void walk(PagedWork<Tile> const& work) {
    Base::begin(work.rows);
    int const count = work.tiles.end - work.tiles.begin;
    int first = work.keys.begin + work.tiles.begin * Tile::kKeys;
    if (count > 0) {
      start(first);
      for (int i = 1; i < count; ++i) advance(first += Tile::kKeys);
      end();
    }
    if (!work.rows.fits()) spoil();
  }

 private:
  __device__ static int stage(int tile) { return tile % Tile::kStages; }
  __device__ void wait(int tile, int which) { shared.full[stage(tile)][which].wait(tile / Tile::kStages % 2); }
  __device__ void release(int tile, int which) { Base::release(shared.empty[stage(tile)][which]); }

  __device__ void take_turn() const {
    if (Tile::kTurns) synchronize_some(kFirstTurn + warpgroup, Tile::kConsumers);
  }
  __device__ void give_turn() const {
    if (Tile::kTurns) arrive_at(kFirstTurn + 1 - warpgroup, Tile::kConsumers);
  }

  // first: key of the tile.
  __device__ void start(int first) {
    float factor[2];
    wait(taken, 0);
    take_turn();
    Base::start_products(shared.q, keys(taken));
    give_turn();
    wait_for_wgmma<0>();
    hold_registers(product);
    release(taken, 0);
    weigh(first, factor);
    pack();
  }
  __device__ void advance(int first) {
    float factor[2];
    wait(taken + 1, 0);
    wait(taken, 1);
    take_turn();
    Base::start_products(shared.q, keys(taken + 1));
    Base::start_sums(values(taken));
    give_turn();
    wait_for_wgmma<1>();
    hold_registers(product);
    release(taken + 1, 0);
    weigh(first, factor);
    wait_for_wgmma<0>();
    hold_registers(sum);
    release(taken++, 1);
    if (__any_sync(~0u, factor[0] != 1.f || factor[1] != 1.f)) rescale(factor);
    pack();
  }
  __device__ void end() {
    Base::release(shared.q_empty);
    wait(taken, 1);
    Base::start_sums(values(taken));
    wait_for_wgmma<0>();
    hold_registers(sum);
    release(taken++, 1);
    softmax.finish();
  }

  __device__ unsigned char const* keys(int tile) const { return shared.tile[stage(tile)][0]; }
  __device__ unsigned char const* values(int tile) const { return shared.tile[stage(tile)][1]; }
  __device__ void weigh(int first, float (&factor)[2]) { Base::weigh(a, KeyRun<Tile::kKeys>{first}, factor); }
  __device__ void spoil() {
    softmax.total[0] = softmax.total[1] = NAN;
#pragma unroll
    for (float& each : sum) each = NAN;
  }
};

#endif  // BRIDGE_WGMMA

// items: of work, one for each tile of rows and split of its keys. Blocks are as many as run at once.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) paged_window_attention_wgmma_kernel(
    PagedArguments<typename Tile::T> a, AttentionParts parts, int items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<PagedWgmmaShared<Tile>*>(memory);
  let_next_kernel_begin();
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    PagedCopies<Tile> copies{a, shared};
    for (int item = blockIdx.x; item < items; item += gridDim.x) copies.fetch(PagedWork<Tile>(a, item, parts.count));
    copies.template tell<0>();
  } else {
    set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
    PagedWgmma<Tile> attention(a, shared);
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      PagedWork<Tile> const work(a, item, parts.count);
      attention.walk(work);
      attention.write(work.rows, parts);
    }
  }
#else
  __trap();
#endif
}

}  // namespace bridge
