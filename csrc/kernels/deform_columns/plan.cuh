// Deformable convolution in two passes, for compute capability 9.0: samples are written out as columns, rows of a sum's
// terms, and a product of matrices reads these as it reads weights. It wins where a fused kernel would gather the same
// samples for several tiles of output channels, or has too few blocks. Positions are taken so many at a time that their
// columns stay in the L2 or near it.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/deformable/deform_conv2d_cut.cuh"

namespace bridge {

constexpr int kColumnCapability = 90;
constexpr int64_t kColumnBytes = int64_t(80) << 20;       // of scratch memory
constexpr int kColumnPositions = 128;                     // of a tile
constexpr int kMostOfCluster = 8;                         // blocks
constexpr int kSampleThreads = 256, kSampleBlocks = 800;  // of a block that samples; and such blocks fill the GPU

// Whether two passes may win, for some number of positions, where tiles fit. Of 16 bits alone: wider samples would be
// split. With fewer channels a fused kernel won on every map that was measured.
template <class T>
bool fits_columns(DeformConv2dArguments<T> const& a) {
  if constexpr (sizeof(T) != 2) {
    return false;
  } else {
    constexpr int kLeastTiles = 2, kLeastStages = 32;
    DeformConv2dPlan const plan = deform_conv2d_plan(a, 128, kColumnPositions);
    return plan.tiles >= kLeastTiles && plan.stages() >= kLeastStages && plan.runs() <= kMaxGridY;
  }
}

template <class T>
DeformConv2dPlan deform_columns_plan(DeformConv2dArguments<T> const& a, int tile_channels) {
  DeformConv2dPlan plan = deform_conv2d_plan(a, tile_channels, kColumnPositions);
  int64_t const tiles = plan.positions.count(a.batch);
  int64_t const at_once = std::max<int64_t>(kColumnBytes / std::max<int64_t>(plan.column_bytes(), 1), 1);
  int64_t const passes = std::max<int64_t>(ceil_divide(tiles, at_once), 1);
  plan.columns = {true, to_int(std::min(tiles, at_once)), to_int(ceil_divide(tiles, passes)), 1, 1, 1};
  return plan;
}

// The tiles of positions of one pass.
struct ColumnPass {
  unsigned first_tile, tiles;
};

// Has the taps of a tile shared among blocks until these fill the GPU.
inline void share_taps(DeformConv2dPlan& plan) {
  constexpr int64_t kHalves = 2;  // of a tile: blocks of their own
  int64_t const blocks = std::max<int64_t>(kHalves * plan.columns.tiles * plan.runs(), 1);
  plan.columns.tap_parts = static_cast<int>(std::min<int64_t>(ceil_divide(kSampleBlocks, blocks), plan.taps));
}

}  // namespace bridge
