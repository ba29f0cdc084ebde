// How the fused deformable convolution is cut, and the operands that its kernels read.
#pragma once

#include <type_traits>

#include "core/checked.h"
#include "kernels/deformable/deform_conv2d_arguments.cuh"

namespace bridge {

constexpr int kRowBytes = 128;  // of a tile in shared memory: one row for each output position or output channel
constexpr int kRowChunks = kRowBytes / kAccessBytes;

template <class T>
constexpr int kLanes = kAccessBytes / sizeof(T);
template <class T>
constexpr int kDepth = kRowBytes / sizeof(T);  // input channels of a row

// The chunk of 16 bytes in which a tile keeps chunk `chunk` of row `row`: rows that are read together use all banks.
__host__ __device__ inline int swizzled(int row, int chunk) { return chunk ^ (row & 7); }

// The channel at place `k` of a row of weights whose samples are in registers: a thread that gathers 16 bytes of
// channels in a row then holds what wgmma wants of it, 4 bytes in each half of the 32 bytes of two instructions.
template <class T>
__host__ __device__ constexpr int fragment_channel(int k) {
  constexpr int kInWord = 4 / sizeof(T);
  int const word = k / kInWord;
  return (word / 16 * 16 + word % 4 * 4 + word % 16 / 8 * 2 + word % 8 / 4) * kInWord + k % kInWord;
}

// How kernels of units walk through a convolution.
struct UnitGeometry {
  uint32_t pitch, row_bytes, map_bytes;  // of a map with its border: pixels and bytes of a row, bytes of all
  uint32_t origin;                       // what makes a pixel of the bits of two coordinates (UnitSample::locate)
  uint32_t offset_bytes, mask_bytes;     // from a tap to the next one; 0: every mask is the same 1
  int rows;
  bool pairs;  // offsets and masks of two positions can be read in one access

  __host__ __device__ int64_t map_pixels() const { return int64_t(pitch) * rows; }
};
// A pixel of a unit's map. Units of 8 bytes come with the one to their right: one access then reads two corners.
__host__ __device__ constexpr int unit_pixel_bytes(int units) { return units == 16 ? kAccessBytes : kRowBytes / units; }

// What all positions share of a unit. One that fills up a stage lies outside the map.
struct alignas(16) UnitTerm {
  uint32_t tap;  // of all offset groups
  float y, x;    // how far from the tap at the kernel's top left
  uint32_t map;
};

constexpr int kMapBefore = 1, kMapBorder = 3;  // rows and columns of zeros: before a map, and in all at least

// How samples are written out for a product that reads them as it reads weights: see deform_columns/.
struct ColumnCut {
  bool used;
  int room;                 // tiles of positions whose columns scratch memory holds; more where there are more of them
  int tiles;                // of positions, whose columns are written in one pass
  int tap_parts;            // blocks that share the taps of a tile when they sample
  int positions, channels;  // blocks of a cluster: beside each other along either of the result's sides
};

// How a convolution is cut. The sum over channels and taps is cut into terms: one tap of one chunk, which are channels
// that share group and offset group; taps vary fastest. A stage, kDepth rows of the weights, is one term or, where
// segments are narrow, several of them, called units: see deform_conv2d_units.cuh.
struct DeformConv2dPlan {
  int64_t segment;  // channels in a row that share group and offset group
  int segments;     // of a group
  int chunks;       // of a segment, kDepth / units channels each, the last one perhaps fewer
  int taps;
  int units;          // terms of a stage: 1, or 4, 8, 16
  int tile_channels;  // output channels of a tile
  int tiles;          // of a group
  int64_t group_channels, group_out, groups;
  // Of the convolution. Its groups are taken together where they are narrow; weights between two of them are zeros.
  int64_t own_channels, own_out;
  int64_t pixel;  // channels of a packed pixel: every segment is followed by zeros up to a multiple of a chunk
  bool as_it_is;  // the feature map comes packed
  PositionTile positions;
  int tile_positions, offset_groups, segments_per_offset_group;
  int splits, split_stages;  // blocks that share the stages of a tile, and how many stages each of them has
  int parts;                 // tiles that an operand is in: 2 where floats are split
  bool fragments;            // channels of packed weights are in the order of `fragment_channel`
  UnitGeometry unit;         // where units > 1
  ColumnCut columns;

  __host__ __device__ int64_t runs() const { return groups * segments * chunks; }
  __host__ __device__ int terms() const { return segments * chunks * taps; }
  __host__ __device__ int stages() const { return (terms() + units - 1) / units; }
  __host__ __device__ int64_t table() const { return units == 1 ? 0 : (groups * stages() + 1) * units; }
  __host__ __device__ int64_t blocks(int64_t batch) const { return positions.count(batch) * groups * tiles; }
  __host__ __device__ int64_t tile_size() const { return int64_t(tile_positions) * tile_channels; }
  // Which run of kDepth channels of a packed pixel it is.
  __host__ __device__ int64_t run_of(int group, int segment, int chunk) const {
    return (int64_t(group) * segments + segment) * chunks + chunk;
  }
  // Bytes of the columns of one tile of positions.
  __host__ __device__ int64_t column_bytes() const { return groups * stages() * tile_positions * kRowBytes; }
  // Where the corners of a tile's positions lie for one tap.
  __host__ __device__ int64_t corners_of(int64_t tile, int group, int segment, int tap) const {
    int const offset_group = (group * segments + segment) / segments_per_offset_group;
    return ((tile * offset_groups + offset_group) * taps + tap) * tile_positions;
  }
};

__host__ __device__ inline bool second_half_first(unsigned thread) { return thread % 2 == 1; }

// The channel of a row of weights in which place `k` lies: of which term of the sum, and which of its chunk's channels.
struct WeightPlace {
  int term, channel;
};

// A stage of units lies in registers as `fragment_channel` says: of the 8 words of 4 bytes that a thread has in a row,
// each unit takes the same number, and 4 threads that share a row take units in turn. Where a unit fills 32 bytes,
// every other thread begins with the second half, so that neighbours read from different banks.
template <class T>
__host__ __device__ WeightPlace weight_place(DeformConv2dPlan const& plan, int stage, int k) {
  if (plan.units == 1) return {stage, plan.fragments ? fragment_channel<T>(k) : k};
  constexpr int kInWord = 4 / sizeof(T);
  int const word = k / kInWord, thread = word % 4, words = 32 / plan.units;
  int const own = (word / 8 * 2 + word % 8 / 4) ^ (words == 8 && second_half_first(thread) ? 4 : 0);
  return {stage * plan.units + own / words * 4 + thread, own % words * kInWord + k % kInWord};
}

// A sample's corners in one access: the pixel at its top left, counted over all images, which of its four pixels are
// inside the feature map (bits 0 to 3), and their weights. Weights are in the tensors' dtype, and so is the
// interpolation, two channels at a time; in fp32 for float.
template <class T>
struct alignas(16) SampleCorners {
  using Lanes = std::conditional_t<std::is_same_v<T, half>, __half2, __nv_bfloat162>;
  int top_left;
  uint32_t inside;
  Lanes weights[2];

  __device__ void set_weights(float const (&value)[4]) {
    for (int i = 0; i < 2; ++i) weights[i] = Lanes(from_float<T>(value[2 * i]), from_float<T>(value[2 * i + 1]));
  }
  __device__ Lanes weight(int i) const {
    T const one = i % 2 ? weights[i / 2].y : weights[i / 2].x;
    return Lanes(one, one);
  }
};
template <>
struct alignas(16) SampleCorners<float> {
  using Lanes = float;
  int top_left;
  uint32_t inside;
  float weights[4];

  __device__ void set_weights(float const (&value)[4]) {
    for (int i = 0; i < 4; ++i) weights[i] = value[i];
  }
  __device__ float weight(int i) const { return weights[i]; }
};

template <class T>
__device__ SampleCorners<T> sample_corners(DeformConv2dArguments<T> const& a, OutputPosition const& at, int tap,
                                           TapSample<T> const& sample) {
  BilinearCorners const corners = tap_corners(a, at, tap, sample);
  SampleCorners<T> result{};
  float weight[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    bool const inside = at.valid && corners.offset[i] >= 0;
    if (inside) {
      result.inside |= 1u << i;
      result.top_left = static_cast<int>(at.n * a.plane()) + corners.offset[i] - i / 2 * a.width - i % 2;
    }
    weight[i] = isnan(corners.scale) ? corners.scale : corners.scale * corners.weight[i];
  }
  result.set_weights(weight);
  return result;
}

// What a fused kernel reads, and where it writes sums when several blocks share a tile. Sizes are the plan's.
template <class T>
struct PackedOperands {
  T* weight;                  // [groups, tiles, stages, parts, tile_channels, kDepth], rows of kRowBytes swizzled
  SampleCorners<T>* corners;  // [tiles of positions, offset_groups, taps, tile_positions]; unused where units > 1
  T* x;                       // [batch, height, width, pixel]; units > 1: maps of units (deform_conv2d_units.cuh)
  T* zeros;                   // [kDepth], and kDepth ones after them where units > 1
  UnitTerm* terms;            // [groups, stages, units], and a stage that is read but not used
  float* sums;                // [splits, groups * tiles, tiles of positions, tile_size]
  T* columns;                 // [groups, columns.tiles, stages, tile_positions, kDepth], rows of kRowBytes swizzled
};

// Calls `body` with the number of units of a stage as a constant, of those that a dtype has.
template <class T, class Body>
cudaError_t for_units(int units, Body&& body) {
  if constexpr (sizeof(T) == 2) {
    if (units == 16) return body(std::integral_constant<int, 16>{});
  }
  return units == 8 ? body(std::integral_constant<int, 8>{}) : body(std::integral_constant<int, 4>{});
}

template <class T>
size_t packed_weight_bytes(DeformConv2dPlan const& plan) {
  return (Size(plan.groups) * plan.tiles * plan.stages() * plan.parts * plan.tile_channels * kRowBytes).bytes();
}

}  // namespace bridge
