// How a deformable convolution is cut into tiles and stages, and whether kernels that have tiles can compute it.
#pragma once

#include <numeric>

#include "kernels/deformable/deform_conv2d_plan.cuh"
#include "kernels/deformable/deform_conv2d_units.cuh"

namespace bridge {

// The shape of tiles that covers an image with the fewest; of several the one nearest to a square.
template <class T>
PositionTile position_tile(DeformConv2dArguments<T> const& a, int positions) {
  PositionTile best{};
  for (int width_log2 : {4, 3, 5, 6}) {
    int const width = 1 << width_log2, height = positions / width;
    auto cut = [](int extent, int tile) { return to_int(ceil_divide(extent, tile)); };
    PositionTile const tiles{false, width_log2, cut(a.out_height, height), cut(a.out_width, width), 0};
    if (best.rows == 0 || tiles.count(1) < best.count(1)) best = tiles;
  }
  return best;
}

// The same, or tiles in a row of all images where those are fewer and rows so short that a tile stays compact.
template <class T>
PositionTile shortest_tile(DeformConv2dArguments<T> const& a, int positions) {
  constexpr int64_t kLongRow = 96, kMaxPositions = (int64_t(1) << 31) - 1;
  PositionTile const rectangles = position_tile(a, positions);
  if (a.out_width > kLongRow || a.positions() + positions > kMaxPositions) return rectangles;
  PositionTile const flat{true, 0, to_int(ceil_divide(a.positions(), positions)), 1, 0};
  return flat.count(a.batch) < rectangles.count(a.batch) ? flat : rectangles;
}

// How many groups in a row are taken together, so that they fill a tile's depth; one where they fill half of it.
template <class T>
int64_t groups_together(DeformConv2dArguments<T> const& a) {
  int64_t const own = a.channels / a.groups;
  int64_t most = 1;
  if (2 * own >= kDepth<T>) return most;
  for (int64_t count = 2; count <= a.groups && own * count <= kDepth<T>; ++count) {
    if (a.groups % count == 0) most = count;
  }
  return most;
}

template <class T>
DeformConv2dPlan deform_conv2d_plan(DeformConv2dArguments<T> const& a, int tile_channels, int tile_positions = 64) {
  DeformConv2dPlan plan{};
  plan.positions = shortest_tile(a, tile_positions), plan.tile_positions = tile_positions;
  plan.groups = a.groups / groups_together(a), plan.taps = a.taps(), plan.tile_channels = tile_channels;
  plan.own_channels = a.channels / a.groups, plan.own_out = a.out_channels / a.groups;
  plan.group_channels = a.channels / plan.groups, plan.group_out = a.out_channels / plan.groups;
  plan.segment = std::gcd(plan.group_channels, a.channels / a.offset_groups);
  plan.segments = to_int(plan.group_channels / plan.segment);
  plan.units = 1, plan.chunks = to_int(ceil_divide(plan.segment, kDepth<T>));
  plan.tiles = to_int(ceil_divide(plan.group_out, tile_channels));
  to_int((Size(plan.segments) * plan.chunks * plan.taps).value());  // the stages
  plan.pixel = (Size(plan.groups) * plan.segments * plan.chunks * kDepth<T>).value();
  plan.as_it_is = a.channels_last && plan.pixel == a.channels && aligned(a.x, kRowBytes);
  plan.offset_groups = a.offset_groups, plan.splits = 1, plan.split_stages = plan.stages(), plan.parts = 1;
  plan.segments_per_offset_group = to_int(a.channels / a.offset_groups / plan.segment);
  return plan;
}

// Units as wide as segments fill, of 8 bytes to 32; those of float have 16 at least.
template <class T>
int units_of_stage(int64_t segment) {
  if (sizeof(T) == 2 && segment * sizeof(T) <= 8) return 16;
  return segment * sizeof(T) <= 16 ? 8 : 4;
}

// Pixels of a row of a unit's map. Of 16 bits such that one lies half of the L1's banks away from the one below: see
// CornerOrder.
template <class T>
int64_t pitch_of_map(int width, int units) {
  constexpr int64_t kBanks = 128;  // bytes
  if (sizeof(T) != 2) return int64_t(width) + kMapBorder;
  int64_t const all = kBanks / unit_pixel_bytes(units), half = all / 2;
  return ceil_divide(int64_t(width) + kMapBorder - half, all) * all + half;
}

template <class T>
DeformConv2dPlan deform_conv2d_unit_plan(DeformConv2dArguments<T> const& a, int tile_channels) {
  DeformConv2dPlan plan = deform_conv2d_plan(a, tile_channels, kUnitPositions);
  plan.positions = position_tile(a, kUnitPositions);  // in which a thread's two positions share a row
  plan.units = units_of_stage<T>(plan.segment);
  int const in_unit = kDepth<T> / plan.units;
  plan.chunks = to_int(ceil_divide(plan.segment, in_unit));
  plan.pixel = (Size(plan.groups) * plan.segments * plan.chunks * in_unit).value(), plan.as_it_is = false;
  to_int((Size(plan.segments) * plan.chunks * plan.taps).value());  // the terms
  plan.split_stages = plan.stages();
  auto& unit = plan.unit;
  auto const bits = [](int64_t value) { return static_cast<uint32_t>(value); };
  unit.rows = to_int(int64_t(a.height) + kMapBorder), unit.pitch = bits(pitch_of_map<T>(a.width, plan.units));
  unit.row_bytes = bits(int64_t(unit.pitch) * unit_pixel_bytes(plan.units));
  unit.map_bytes = bits(unit.map_pixels() * unit_pixel_bytes(plan.units));
  constexpr int64_t kZero = 0x4b400000;  // the bits of kInteger
  unit.origin = bits(kMapBefore - kZero) * (unit.pitch + 1);
  unit.offset_bytes = bits(2 * a.out_plane() * sizeof(T)), unit.mask_bytes = a.mask ? unit.offset_bytes / 2 : 0;
  unit.pairs = a.out_width % 2 == 0 && aligned(a.offset, 2 * sizeof(T)) && aligned(a.mask, 2 * sizeof(T));
  return plan;
}

// Leaves some rows out of tiles where multiprocessors then share positions more evenly; a warp without positions rests.
// Where tiles are few they stay as they are, and blocks share their sums.
template <class T>
void even_out_tiles(DeformConv2dArguments<T> const& a, DeformConv2dPlan& plan, int multiprocessors) {
  constexpr int64_t kOfTile = 120;  // what a tile takes beside its positions, in positions, as measured on an H200
  if (plan.blocks(a.batch) < int64_t(multiprocessors) * 3 / 4) return;
  PositionTile best = plan.positions;
  int64_t least = 0;
  auto const consider = [&](PositionTile const& tiles, int64_t positions) {
    int64_t const blocks = tiles.count(a.batch) * plan.groups * plan.tiles;
    int64_t const work = ceil_divide(blocks, int64_t(multiprocessors)) * (positions + kOfTile);
    if (least == 0 || work < least) least = work, best = tiles;
  };
  consider(plan.positions, plan.tile_positions);
  for (int width_log2 : {4, 5, 6}) {  // a warp's 16 positions are in one row
    int const width = 1 << width_log2, rows = plan.tile_positions / width;
    auto const cut = [](int extent, int tile) { return to_int(ceil_divide(extent, tile)); };
    for (int height = rows - 1; height > rows * 2 / 3; --height)
      consider({false, width_log2, cut(a.out_height, height), cut(a.out_width, width), rows - height}, height * width);
  }
  plan.positions = best;
}

// Whether kernels of units can compute it: their indices reach, and coordinates are exact in a float's low bits.
template <class T>
bool fits_units(DeformConv2dArguments<T> const& a) {
  bool const filled = a.batch > 0 && a.channels > 0 && a.out_channels > 0 && a.plane() > 0 && a.out_plane() > 0;
  if (!filled || a.taps() < 1 || a.groups < 1 || a.offset_groups < 1) return false;
  constexpr int64_t kMaxBytes = (int64_t(1) << 31) - 1, kMaxExtent = int64_t(1) << 22;
  if (a.height + 2 * int64_t(a.padding_h) >= kMaxExtent || a.width + 2 * int64_t(a.padding_w) >= kMaxExtent)
    return false;
  DeformConv2dPlan const plan = deform_conv2d_unit_plan(a, 64);
  return plan.group_out >= 16 && plan.unit.map_pixels() * unit_pixel_bytes(plan.units) <= kMaxBytes &&
         2 * a.out_plane() * sizeof(T) <= 2 * kMaxBytes && plan.runs() <= kMaxBytes &&
         2 * int64_t(a.offset_groups) * plan.taps <= kMaxBytes && plan.positions.count(a.batch) <= kMaxBytes &&
         Size(plan.groups) * plan.tiles <= kMaxGridY;
}

// Whether tiles are filled well enough by the convolution's channels, and the fused kernel's indices reach.
template <class T>
bool fits_tiles(DeformConv2dArguments<T> const& a) {
  bool const filled = a.batch > 0 && a.channels > 0 && a.out_channels > 0 && a.plane() > 0 && a.out_plane() > 0;
  if (!filled || a.taps() < 1 || a.groups < 1 || a.offset_groups < 1) return false;
  DeformConv2dPlan const plan = deform_conv2d_plan(a, 64, 128);
  constexpr int64_t kMaxIndex = (int64_t(1) << 31) - 1;
  return 2 * plan.segment >= kDepth<T> && plan.group_out >= 16 && Size(a.batch) * a.plane() <= kMaxIndex &&
         Size(plan.pixel) * a.width * sizeof(T) <= kMaxIndex && packed_corners<T>(plan, a.batch) <= kMaxIndex &&
         Size(plan.groups) * plan.tiles <= kMaxGridY;
}

// Bytes that are laid out before: the feature map with its zeros and, but for units, the samples' corners.
template <class T>
double packed_bytes(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan) {
  double const map = double(a.batch) * a.plane() * plan.pixel * sizeof(T);
  double const corners = double(a.positions()) * a.offset_groups * a.taps() * sizeof(SampleCorners<T>);
  return (plan.as_it_is ? 0 : map) + (plan.units > 1 ? 0 : corners);
}

// How many results in a row lie together in y, for accesses of kLanes, of 2 or of 1: positions or, where it has
// channels last, channels of a group.
template <class T>
int results_together(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan) {
  int64_t const row = plan.positions.flat ? a.out_plane() : a.out_width;
  int64_t const together = a.y_channels_last ? std::gcd(a.out_channels, plan.group_out) : row;
  if (aligned(a.y) && together % kLanes<T> == 0) return kLanes<T>;
  return aligned(a.y, 2 * sizeof(T)) && together % 2 == 0 ? 2 : 1;
}

// Cuts the stages of each tile into `splits` parts.
inline void split(DeformConv2dPlan& plan, int splits) {
  plan.split_stages = static_cast<int>(ceil_divide(plan.stages(), splits));
  plan.splits = static_cast<int>(ceil_divide(plan.stages(), plan.split_stages));
}

}  // namespace bridge
