// Block-sparse attention by wgmma, for compute capability 9.0. Warpgroups multiply, 64 rows each; one more warp
// fetches. While a warpgroup computes the weights of one tile of keys, products of the tile before are under way (Shah
// et al., https://arxiv.org/abs/2407.08608, section 3.2), and those of other warpgroups (section 3.1).
#pragma once

#include "kernels/block_sparse_attention/wgmma_copies.cuh"
#include "kernels/window_attention/wgmma_rows.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

template <class Tile>
struct SparseWgmma : WgmmaRows<Tile> {
  using T = typename Tile::T;
  using Rows = SparseRows<T>;
  using Base = WgmmaRows<Tile>;
  using Base::pack, Base::product, Base::rescale, Base::softmax, Base::sum, Base::warpgroup;
  static constexpr int kFirstClear = 1;  // numbers of barriers, one a warpgroup

  BlockSparseArguments<T> const& a;
  SparseShared<Tile>& shared;
  int taken = 0, items = 0;  // tiles and items since the block began
  KeyInterval group_keys;

  __device__ SparseWgmma(BlockSparseArguments<T> const& a, SparseShared<Tile>& shared) : a(a), shared(shared) {}

  __device__ static int stage(int tile) { return tile % Tile::kStages; }
  __device__ void wait(int tile, int which) { shared.full[stage(tile)][which].wait(tile / Tile::kStages % 2); }
  __device__ void release(int tile, int which) { Base::release(shared.empty[stage(tile)][which]); }

  __device__ void walk(Rows const& rows) {
    int const place = items % Tile::kQueryTiles;
    begin(rows);
    shared.q_full[place].wait(items++ / Tile::kQueryTiles % 2);
    bool last = false;
    if (!find_first(last)) return Base::release(shared.q_empty[place]);
    float factor[2];
    start_products(taken, place);
    wait_for_wgmma<0>();
    hold_registers(product);
    release(taken, 0);
    weigh(taken, factor);
    pack();
    while (!last) {
      wait(taken + 1, 0);
      if (!sees(taken + 1)) break;
      start_products(taken + 1, place);
      start_sums(taken);
      wait_for_wgmma<1>();
      hold_registers(product);
      release(taken + 1, 0);
      weigh(taken + 1, factor);
      wait_for_wgmma<0>();
      hold_registers(sum);
      release(taken, 1);
      if (__any_sync(~0u, factor[0] != 1.f || factor[1] != 1.f)) rescale(factor);
      pack();
      last = shared.record(++taken).last;
    }
    Base::release(shared.q_empty[place]);
    start_sums(taken);
    wait_for_wgmma<0>();
    hold_registers(sum);
    release(taken, 1);
    while (!last) last = skip(++taken);
    ++taken;
    softmax.finish();
  }

 private:
  __device__ void begin(Rows const& rows) {
    Base::begin(rows);
    group_keys = covering_of_warp(rows, 64 * warpgroup, 64 * warpgroup + 64);
  }

  __device__ bool sees(int tile) {
    SparseColumns<Tile> const keys{shared.record(tile).key};
    return keys.begin() < group_keys.end && keys.end() > group_keys.begin;
  }

  // Leaves a tile to others. Whether it was the item's last.
  __device__ bool skip(int tile) {
    wait(tile, 0);
    bool const last = shared.record(tile).last;
    release(tile, 0);
    wait(tile, 1);
    release(tile, 1);
    return last;
  }

  // Goes to the first tile that this warpgroup sees, or past the item's last one. Whether it sees any.
  __device__ bool find_first(bool& last) {
    for (; !last; ++taken) {
      wait(taken, 0);
      if (sees(taken)) {
        last = shared.record(taken).last;
        return true;
      }
      last = skip(taken);
    }
    return false;
  }

  __device__ void start_products(int tile, int place) {
    Base::start_products(shared.q[place], shared.tile[stage(tile)][0]);
  }
  __device__ void start_sums(int tile) {
    wait(tile, 1);
    if (shared.record(tile).cut) clear_unseen(tile);
    Base::start_sums(shared.tile[stage(tile)][1]);
  }

  // Values that no row sees become zeros, which a weight of 0 leaves so. Each warpgroup does it for itself.
  __device__ void clear_unseen(int tile) {
    SparseRecord const& record = shared.record(tile);
    int const row = threadIdx.x % Tile::kWarpgroup;
    if (row < Tile::kKeys && !record.keys.has(record.key[row / kPieceKeys] + row % kPieceKeys)) {
      unsigned char* const values = shared.tile[stage(tile)][1] + row * Tile::kRowBytes;
#pragma unroll
      for (int i = 0; i < Tile::kParts * Tile::kRowBytes / kAccessBytes; ++i) {
        int const chunk = i / 8 * Tile::kKeys * 8 + (i + row) % 8;  // neighbouring threads write to other banks
        reinterpret_cast<uint4*>(values)[chunk] = {0, 0, 0, 0};
      }
    }
    publish_to_wgmma();
    synchronize_some(kFirstClear + warpgroup, Tile::kWarpgroup);
  }

  __device__ void weigh(int tile, float (&factor)[2]) {
    Base::weigh(a, SparseColumns<Tile>{shared.record(tile).key}, factor);
  }
};

#endif  // BRIDGE_WGMMA

// items: of work, one for each tile of rows and split of its keys; blocks take them in turn.
template <class Tile>
__global__ void __maxnreg__(Tile::kRegisters)
    block_sparse_attention_wgmma_kernel(BlockSparseArguments<typename Tile::T> a, AttentionParts parts,
                                        __grid_constant__ SparseMaps const maps, int items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<SparseShared<Tile>*>(memory);
  using Rows = SparseRows<typename Tile::T>;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    SparseCopies<Tile> copies{a, maps, shared};
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      Rows const rows(a, Tile::rows(a.packed), parts.count, item);
      if (!rows.empty()) copies.fetch(rows, parts.count);
    }
  } else {
    SparseWgmma<Tile> attention(a, shared);
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      Rows const rows(a, Tile::rows(a.packed), parts.count, item);
      if (rows.empty()) continue;
      attention.walk(rows);
      attention.write(rows, parts);
    }
  }
#else
  __trap();
#endif
}

}  // namespace bridge
