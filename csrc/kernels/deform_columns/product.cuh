// The product of columns and weights, of which a block's stages arrive by bulk copies, some ahead. Blocks of a cluster
// beside each other along one side of the result share what the other side has: each copies a part of it to all of
// them. Blocks that share a tile's stages are one cluster too, and add their sums through each other's shared memory.
#pragma once

#include "kernels/deform_columns/results.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// By one thread: has the block's stages copied, its part of each.
template <class T, class Tile>
__device__ void copy_column_stages(DeformConv2dPlan const& plan, PackedOperands<T> const& packed,
                                   ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared) {
  ClusterPlace const& place = block.place;
  uint32_t const x = place.at[0], y = place.at[1], z = place.at[2], across = place.count[1], along = place.count[0];
  uint16_t to_row = 0, to_column = 0;  // blocks with the same positions, and with the same output channels
  for (uint32_t i = 0; i < across; ++i) to_row |= 1u << place.rank(x, i, z);
  for (uint32_t i = 0; i < along; ++i) to_column |= 1u << place.rank(i, y, z);
  uint32_t const columns_part = Tile::kColumnBytes / across, weights_part = Tile::kWeightBytes / along;
  uint32_t const columns_from = y * columns_part, weights_from = x * weights_part;
  int64_t const stages = plan.stages(), column = int64_t(block.group) * plan.columns.tiles + block.in_pass;
  char const* columns = reinterpret_cast<char const*>(packed.columns) +
                        (column * stages + block.range.first) * Tile::kColumnBytes + columns_from;
  char const* weights = reinterpret_cast<char const*>(packed.weight) +
                        (blockIdx.y * stages + block.range.first) * Tile::kWeightBytes + weights_from;
  int slot = 0;
  uint32_t parity = 1;
  for (int i = 0; i < block.range.count; ++i) {
    SharedBarrier& full = shared.full[slot];
    shared.empty[slot].wait(parity);
    full.arrive_and_expect(Tile::kStageBytes);
    unsigned char* const to = shared.stage[slot];
    if (across > 1) {
      copy_bulk_to(to_row, to + columns_from, columns, columns_part, full);
    } else {
      copy_bulk(to, columns, columns_part, full);
    }
    if (along > 1) {
      copy_bulk_to(to_column, to + Tile::kColumnBytes + weights_from, weights, weights_part, full);
    } else {
      copy_bulk(to + Tile::kColumnBytes, weights, weights_part, full);
    }
    columns += Tile::kColumnBytes, weights += Tile::kWeightBytes;
    if (++slot == Tile::kStages) slot = 0, parity ^= 1;
  }
}

// Whom a thread of a warpgroup tells that a slot is empty: those who copy to it, one thread each.
struct SlotReaders {
  bool tells;
  uint32_t rank;

  __device__ explicit SlotReaders(ClusterPlace const& place) {
    uint32_t const thread = threadIdx.x % kWarpgroup, across = place.count[1];
    tells = thread < across + place.count[0] - 1;
    uint32_t const other = thread - across, x = other < place.at[0] ? other : other + 1;
    rank = thread < across ? place.rank(place.at[0], thread, place.at[2]) : place.rank(x, place.at[1], place.at[2]);
  }
};

// By the multiplying warpgroups: 64 positions each.
template <class T, class Tile>
__device__ void multiply_columns(ColumnBlock<Tile> const& block, ColumnShared<Tile>& shared,
                                 float (&sum)[Tile::kChannels / 2]) {
  using Multiply = HalfWgmma<T, Tile::kChannels>;
  SlotReaders const readers(block.place);
  uint32_t const columns_of_group = threadIdx.x / kWarpgroup * (Tile::kColumnBytes / 2);
  int slot = 0, before = 0;
  uint32_t parity = 0;
  for (int i = 0; i < block.range.count; ++i) {
    shared.full[slot].wait(parity);
    uint32_t const stage = shared_address(shared.stage[slot]);
    uint64_t const columns = matrix_descriptor(stage + columns_of_group);
    uint64_t const weights = matrix_descriptor(stage + Tile::kColumnBytes);
    begin_wgmma();
#pragma unroll
    for (int step = 0; step < 4; ++step)
      Multiply::add_shared(sum, columns + 2 * step, weights + 2 * step, i > 0 || step > 0);
    commit_wgmma();
    wait_for_wgmma<1>();
    if (i > 0 && readers.tells) arrive_in(shared.empty[before], readers.rank);
    before = slot;
    if (++slot == Tile::kStages) slot = 0, parity ^= 1;
  }
  wait_for_wgmma<0>();
  hold_registers(sum);
}

#endif  // BRIDGE_WGMMA

// Grid: x over tiles of positions, y over tiles of output channels, z over splits. A cluster: ColumnCut's along x and
// y, and all of z.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) deform_columns_product_kernel(
    DeformConv2dArguments<T> a, DeformConv2dPlan plan, PackedOperands<T> packed, ColumnPass pass, int wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ColumnShared<Tile>*>(memory);
  ColumnBlock<Tile> const block(plan, pass.tiles);
  bool const in_cluster = block.place.blocks() > 1;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(Tile::kConsumers / kWarpgroup * (block.place.count[0] + block.place.count[1] - 1));
    }
    publish_barriers();
  }
  for (int i = threadIdx.x; i < Tile::kChannels; i += Tile::kThreads)
    shared.bias[i] = a.bias && i < block.rows ? to_float(a.bias[block.out_first + i]) : 0.f;
  __syncthreads();
  if (in_cluster) meet_cluster();
  if (threadIdx.x >= Tile::kConsumers) {
    if (threadIdx.x == Tile::kConsumers) {
      wait_for_kernel_before();
      copy_column_stages(plan, packed, block, shared);
    }
    __syncwarp();
    if (in_cluster) synchronize_cluster();
  } else {
    float sum[Tile::kChannels / 2];
    multiply_columns<T>(block, shared, sum);
    finish_columns(a, plan, pass.first_tile + block.in_pass, block, shared, sum, wide);
  }
  if (in_cluster) meet_cluster();  // others may still read here, or arrive
#else
  __trap();
#endif
}

}  // namespace bridge
