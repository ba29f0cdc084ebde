// Window attention by wgmma, for compute capability 9.0. Two warpgroups multiply, 64 rows each; a third one fetches.
// While a warpgroup computes the weights of one tile of keys, products of the tile before are under way (Shah et al.,
// https://arxiv.org/abs/2407.08608, section 3.2).
#pragma once

#include "kernels/window_attention/wgmma_copies.cuh"
#include "kernels/window_attention/wgmma_rows.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct WgmmaAttention : WgmmaRows<Tile> {
  using Base = WgmmaRows<Tile>;
  using Base::pack, Base::product, Base::release, Base::rescale, Base::softmax, Base::sum;

  WindowAttentionArguments<typename Tile::T> const& a;
  WgmmaShared<Tile>& shared;
  int taken = 0;  // tiles since the block began

  __device__ WgmmaAttention(WindowAttentionArguments<typename Tile::T> const& a, WgmmaShared<Tile>& shared)
      : a(a), shared(shared) {}

  __device__ static int stage(int tile) { return tile % Tile::kStages; }
  __device__ void wait(int tile, int which) { shared.full[stage(tile)][which].wait(tile / Tile::kStages % 2); }

  __device__ void walk(WgmmaWork<Tile> const& work) {
    Base::begin(work.rows);
    int const count = work.tiles.end - work.tiles.begin;
    if (count <= 0) return;
    float factor[2];
    int first = work.keys.begin + work.tiles.begin * Tile::kKeys;
    start_products(taken);
    wait_for_wgmma<0>();
    hold_registers(product);
    release(shared.empty[stage(taken)][0]);
    weigh(first, factor);
    pack();
    for (int i = 1; i < count; ++i) {
      first += Tile::kKeys;
      start_products(taken + 1);
      start_sums(taken);
      wait_for_wgmma<1>();
      hold_registers(product);
      release(shared.empty[stage(taken + 1)][0]);
      weigh(first, factor);
      wait_for_wgmma<0>();
      hold_registers(sum);
      release(shared.empty[stage(taken)][1]);
      rescale(factor);
      pack();
      ++taken;
    }
    release(shared.q_empty);
    start_sums(taken);
    wait_for_wgmma<0>();
    hold_registers(sum);
    release(shared.empty[stage(taken++)][1]);
    softmax.finish();
  }

  __device__ void start_products(int tile) {
    wait(tile, 0);
    Base::start_products(shared.q, shared.tile[stage(tile)][0]);
  }
  __device__ void start_sums(int tile) {
    wait(tile, 1);
    Base::start_sums(shared.tile[stage(tile)][1]);
  }
  __device__ void weigh(int first, float (&factor)[2]) { Base::weigh(a, KeyRun<Tile::kKeys>{first}, factor); }
};

#endif  // BRIDGE_WGMMA

// items: of work, one for each tile of rows and split of its keys. Blocks are as many as run at once.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_wgmma_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts, int items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<WgmmaShared<Tile>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    WgmmaCopies<Tile> copies{a, shared};
    for (int item = blockIdx.x; item < items; item += gridDim.x) copies.fetch(WgmmaWork<Tile>(a, item, parts.count));
    copies.template tell<0>();
  } else {
    set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
    WgmmaAttention<Tile> attention(a, shared);
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      WgmmaWork<Tile> const work(a, item, parts.count);
      attention.walk(work);
      attention.write(work.rows, parts);
    }
  }
#else
  __trap();
#endif
}

}  // namespace bridge
