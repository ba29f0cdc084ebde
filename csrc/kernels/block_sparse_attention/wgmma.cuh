// Block-sparse attention by wgmma and the tensor memory accelerator, for compute capability 9.0. Warpgroups multiply,
// 64 rows each; one more warp fetches.
#pragma once

#include "kernels/block_sparse_attention/wgmma_copies.cuh"
#include "kernels/window_attention/wgmma_steps.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct SparseWgmma : WgmmaSteps<BlockSparseArguments<typename Tile::T>, SparseShared<Tile>> {
  using T = typename Tile::T;
  using Rows = SparseRows<T>;
  using Base = WgmmaSteps<BlockSparseArguments<T>, SparseShared<Tile>>;
  using Base::items, Base::shared, Base::softmax, Base::taken, Base::wait, Base::warpgroup;

  KeyInterval group_keys;

  using Base::Base;

  __device__ void compute(Rows const& rows, AttentionParts const& parts) {
    begin(rows);
    Base::await_queries();
    bool last = false;
    if (find_first(last)) {
      walk(last);
    } else {
      Base::release_queries();
    }
    softmax.finish();
    Base::write(rows, parts);
    ++items;
  }

 private:
  __device__ void begin(Rows const& rows) {
    Base::begin(rows);
    if constexpr (!Tile::kAlternates) group_keys = covering_of_warp(rows, 64 * warpgroup, 64 * warpgroup + 64);
  }

  __device__ void walk(bool last) {
    auto const amend = [&](uint32_t tile) { clear_unseen(tile); };
    float factor[2];
    Base::multiply_first(columns(taken), factor);
    while (!last) {
      wait(taken + 1, 0);
      if (!sees(taken + 1)) break;
      if constexpr (Tile::kOverlaps) {
        Base::multiply_and_sum(columns(taken + 1), factor, amend);
      } else {
        Base::sum_values(amend);
        Base::multiply_first(columns(taken), factor);
        if (Base::rescales(factor)) Base::rescale(factor);
      }
      last = is_last(taken);
    }
    Base::release_queries();
    Base::sum_values(amend);
    while (!last) last = skip();
  }

  __device__ SparseColumns<Tile> columns(uint32_t tile) { return {shared.record(tile).key}; }
  // Of an item.
  __device__ bool is_last(uint32_t tile) { return same_in_warp(shared.record(tile).last); }

  __device__ bool sees(uint32_t tile) {
    if constexpr (Tile::kAlternates) return true;
    SparseColumns<Tile> const keys = columns(tile);
    return same_in_warp(keys.begin() < group_keys.end && keys.end() > group_keys.begin);
  }

  // Goes to the first tile that this warpgroup sees, or past the item's last one. Whether it sees any.
  __device__ bool find_first(bool& last) {
    while (!last) {
      wait(taken, 0);
      if (sees(taken)) {
        last = is_last(taken);
        return true;
      }
      last = skip();
    }
    return false;
  }

  // Leaves tile `taken` to others. Whether it was the item's last.
  __device__ bool skip() {
    wait(taken, 0);
    bool const last = is_last(taken);
    Base::skip();
    return last;
  }

  __device__ void clear_unseen(uint32_t tile) {
    SparseRecord const& record = shared.record(tile);
    if (!record.cut) return;
    Base::clear_values(tile,
                       [&](int row) { return !record.keys.has(record.key[row / kPieceKeys] + row % kPieceKeys); });
  }
};

#endif  // BRIDGE_WGMMA

// Blocks take items of work, one for each tile of rows and split of its keys, in turn.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) block_sparse_attention_wgmma_kernel(
    BlockSparseArguments<typename Tile::T> a, AttentionParts parts, __grid_constant__ AttentionMaps const maps,
    SparseItems items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<SparseShared<Tile>*>(memory);
  using Rows = SparseRows<typename Tile::T>;
  int const tile_rows = Tile::queries(a.packed) * a.packed;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::Registers::kFetching, Tile::Registers::kLaunch>();
    if (threadIdx.x >= Tile::kConsumers + 32) return;
    SparseCopies<Tile> copies(a, maps, shared, items.box_keys);
    for (int item = blockIdx.x; item < items.count; item += gridDim.x) {
      Rows const rows(a, tile_rows, parts.count, item);
      if (!rows.empty()) copies.fetch(rows, parts.count);
    }
  } else {
    set_registers<Tile::Registers::kComputing, Tile::Registers::kLaunch>();
    SparseWgmma<Tile> attention(a, shared);
    for (int item = blockIdx.x; item < items.count; item += gridDim.x) {
      Rows const rows(a, tile_rows, parts.count, item);
      if (!rows.empty()) attention.compute(rows, parts);
    }
  }
#else
  __trap();
#endif
}

}  // namespace bridge
