// Window attention by wgmma and the tensor memory accelerator, for compute capability 9.0. Warpgroups multiply, 64 rows
// each; one more warp fetches.
#pragma once

#include "kernels/window_attention/wgmma_copies.cuh"
#include "kernels/window_attention/wgmma_items.cuh"
#include "kernels/window_attention/wgmma_steps.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct WindowCopies : WgmmaCopies<WindowShared<Tile>> {
  using Base = WgmmaCopies<WindowShared<Tile>>;
  using Base::fetched_queries, Base::lane, Base::shared, Base::started;

  using Base::Base;

  __device__ void fetch(WindowItem const& item, int ratio) {
    Base::await_empty_queries();
    if (lane == 0) shared.record(fetched_queries) = item;
    Base::fetch_queries(ratio, item.first_query, item.group, item.batch);
#pragma unroll 1
    for (int tile = item.begin; tile < item.end; ++tile, ++started) {
      int const key = item.keys.begin + tile * Tile::kKeys;
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        Base::await_empty(which);
        Base::template fetch_tile<Tile::kKeys>(which, Tile::kKeys, key, item.group, item.batch);
      }
    }
  }
};

template <class Tile>
struct WindowWgmma : WgmmaSteps<WindowAttentionArguments<typename Tile::T>, WindowShared<Tile>> {
  using T = typename Tile::T;
  using Rows = QueryRows<T>;
  using Run = KeyRun<Tile::kKeys, true>;
  using Base = WgmmaSteps<WindowAttentionArguments<T>, WindowShared<Tile>>;
  using Base::a, Base::items, Base::shared, Base::softmax, Base::taken, Base::wait, Base::warpgroup;
  static_assert(Tile::kOverlaps);

  using Base::Base;

  __device__ void compute(AttentionParts const& parts, int ratio) {
    Base::await_queries();
    walk(rows(ratio));
    softmax.finish();
    Base::write(rows(ratio), parts);  // made anew: registers are scarce meanwhile
    ++items;
  }

 private:
  __device__ Rows rows(int ratio) const { return Rows(a, ratio, Tile::queries(ratio), shared.record(items)); }

  __device__ void walk(Rows const& rows) {
    Base::begin(rows);
    WindowItem const& item = shared.record(items);
    uint32_t const end = taken + (item.end - item.begin);
    uint32_t last = end;
    int first_key = item.keys.begin + item.begin * Tile::kKeys;
    if constexpr (!Tile::kAlternates) {
      KeyInterval const own = rows.covering_of_rows(64 * warpgroup, 64 * warpgroup + 64);
      int const tiles = item.end - item.begin;
      int const hidden = own.empty() ? tiles : max(0, (own.begin - first_key) / Tile::kKeys);
      last = taken + min(tiles, max(0, (own.end - first_key + Tile::kKeys - 1) / Tile::kKeys));
      first_key += hidden * Tile::kKeys;
      skip_to(taken + min(tiles, hidden));
    }
    if (taken < last) {
      walk_seen(last, first_key);
    } else {
      Base::release_queries();
    }
    skip_to(end);
  }

  __device__ void skip_to(uint32_t tile) {
    while (taken < tile) {
      wait(taken, 0);
      Base::skip();
    }
  }

  // The tiles `taken` to last - 1.
  __device__ void walk_seen(uint32_t last, int first_key) {
    auto const as_they_are = [](uint32_t) {};
    float factor[2];
    wait(taken, 0);
    Base::multiply_first(Run{first_key}, factor);
    while (taken + 1 < last) {
      first_key += Tile::kKeys;
      wait(taken + 1, 0);
      Base::multiply_and_sum(Run{first_key}, factor, as_they_are);
    }
    Base::release_queries();
    Base::sum_values([&](uint32_t tile) { clear_unseen(tile, first_key); });
  }

  // Values behind those that a row of the item sees.
  __device__ void clear_unseen(uint32_t tile, int first_key) {
    int const end = shared.record(items).keys.end;
    if (end - first_key < Tile::kKeys && end < a.keys)
      Base::clear_values(tile, [&](int row) { return row >= end - first_key; });
  }
};

#endif  // BRIDGE_WGMMA

// Blocks are as many as run at once.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_wgmma_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts, __grid_constant__ AttentionMaps const maps,
    WindowItems items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<WindowShared<Tile>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::Registers::kFetching, Tile::Registers::kLaunch>();
    if (threadIdx.x >= Tile::kConsumers + 32) return;
    WindowCopies<Tile> copies(maps, shared);
    for (int round = 0, item; (item = item_of_round(round)) < items.count; ++round)
      copies.fetch(window_item<Tile>(a, items, item), items.ratio);
  } else {
    set_registers<Tile::Registers::kComputing, Tile::Registers::kLaunch>();
    WindowWgmma<Tile> attention(a, shared);
    for (int round = 0; item_of_round(round) < items.count; ++round) attention.compute(parts, items.ratio);
  }
#else
  __trap();
#endif
}

}  // namespace bridge
