// Which tile of the result a block of the product has, and its shared memory.
#pragma once

#include "kernels/common/cluster.cuh"
#include "kernels/deform_columns/plan.cuh"
#include "kernels/deform_registers/tile.cuh"

namespace bridge {

// kChannels: output channels of a tile.
template <class T_, int kChannels_>
struct ColumnTile {
  using T = T_;
  static constexpr int kPositions = kColumnPositions, kChannels = kChannels_;
  static constexpr int kColumnBytes = kPositions * kRowBytes, kWeightBytes = kChannels * kRowBytes;
  static constexpr int kStageBytes = kColumnBytes + kWeightBytes;
  static constexpr int kStages = kChannels == 128 ? 6 : 4, kResidents = kChannels == 64 ? 2 : 1;
  static constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + 32;
  // Sums of a row in the end: of a channel or, where the result has channels last, of a position. Neighbours are in
  // other banks.
  static constexpr int kPitch = kPositions + 4, kPixelPitch = kChannels + 8;
  static constexpr int kSums = std::max(kChannels * kPitch, kPositions* kPixelPitch);
  static_assert(kSums * int(sizeof(float)) <= kStages * kStageBytes);
};

template <class Tile>
struct ColumnShared {
  alignas(1024) unsigned char stage[Tile::kStages][Tile::kStageBytes];  // columns, then weights; sums in the end
  SharedBarrier full[Tile::kStages], empty[Tile::kStages];
  float bias[Tile::kChannels];

  __device__ float* sums() { return reinterpret_cast<float*>(stage); }
};

#ifdef BRIDGE_WGMMA

// Which tile a block has. One past the last tile of positions, which fills a cluster, computes the last one again.
template <class Tile>
struct ColumnBlock {
  ClusterPlace place;
  StageRange range;
  int group, tile;          // of output channels
  unsigned in_pass;         // tile of positions
  bool counts;              // its results are wanted
  int64_t out_first, rows;  // output channels

  __device__ ColumnBlock(DeformConv2dPlan const& plan, unsigned tiles)
      : range(plan),
        group(static_cast<int>(blockIdx.y) / plan.tiles),
        tile(static_cast<int>(blockIdx.y) % plan.tiles),
        in_pass(min(blockIdx.x, tiles - 1)),
        counts(blockIdx.x < tiles),
        out_first(group * plan.group_out + int64_t(tile) * Tile::kChannels),
        rows(min(int64_t(Tile::kChannels), (group + 1) * plan.group_out - out_first)) {}
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
