// The levels and the sampling points of multi-scale deformable attention, as they stand in shared memory.
#pragma once

#include <cmath>

#include "kernels/attention/ms_deform_attn_plan.cuh"

namespace bridge {

// The level of a sample. NaN extents: it is not within value. Extents of -1: it has no pixels.
struct alignas(16) MsDeformAttnLevel {
  float width, height;
  int columns, start;
};

__device__ inline int64_t read_index(void const* data, bool wide, int64_t i) {
  return wide ? static_cast<int64_t const*>(data)[i] : int64_t(static_cast<int32_t const*>(data)[i]);
}

template <class T>
__device__ MsDeformAttnLevel load_level(MsDeformAttnArguments<T> const& a, int level) {
  int64_t const height = read_index(a.spatial_shapes, a.wide_shapes, 2 * level);
  int64_t const width = read_index(a.spatial_shapes, a.wide_shapes, 2 * level + 1);
  int64_t const start = read_index(a.level_start_index, a.wide_starts, level);
  constexpr int64_t kMost = INT32_MAX;
  bool const valid = height >= 0 && width >= 0 && start >= 0 && height <= kMost && width <= kMost &&
                     start <= a.positions && height * width <= a.positions - start;
  if (!valid) return {nanf(""), nanf(""), 0, 0};
  if (height == 0 || width == 0) return {-1.f, -1.f, 0, 0};
  return {float(width), float(height), int(width), int(start)};
}

template <class T>
__device__ void fill_levels(MsDeformAttnArguments<T> const& a,
                            MsDeformAttnLevel* levels) {  // [levels, points]
  for (int i = threadIdx.x; i < a.samples(); i += blockDim.x) levels[i] = load_level(a, i / a.points);
}

// A warp's points as lanes hand them to each other. corners: how far each is from the first position in value, in
// vectors of channels; x negative: the point counts for nothing. weights: of the corners, times the attention
// weight; or, packed, four of T in x and y, and the attention weight in z.
struct alignas(16) MsDeformAttnPoints {
  int4 corners[kWarpSize];
  float4 weights[kWarpSize];
};

constexpr int kNoPoint = INT32_MIN;

__device__ inline __half2 make_pair(half a, half b) { return __halves2half2(a, b); }
__device__ inline __nv_bfloat162 make_pair(bfloat16 a, bfloat16 b) { return __halves2bfloat162(a, b); }
__device__ inline __half2 low_twice(__half2 pair) { return __low2half2(pair); }
__device__ inline __nv_bfloat162 low_twice(__nv_bfloat162 pair) { return __low2bfloat162(pair); }
__device__ inline __half2 high_twice(__half2 pair) { return __high2half2(pair); }
__device__ inline __nv_bfloat162 high_twice(__nv_bfloat162 pair) { return __high2bfloat162(pair); }
__device__ inline float2 to_floats(__half2 pair) { return __half22float2(pair); }
__device__ inline float2 to_floats(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }

template <class T>
using PairOf = decltype(make_pair(T{}, T{}));

template <class T>
__device__ float pair_bits(float a, float b) {
  PairOf<T> const pair = make_pair(from_float<T>(a), from_float<T>(b));
  return *reinterpret_cast<float const*>(&pair);
}

// Two neighbours along an axis and their weights. Beyond the edge there are zeros: the neighbour within is taken twice
// there, each time for half its weight, so that no weight is zero that an infinite value must not meet.
struct MsDeformAttnAxis {
  int low, high;
  float low_weight, high_weight;
  bool inside;

  __device__ MsDeformAttnAxis(float pixel, float extent) {
    inside = pixel > -1.f && pixel < extent;
    float const below = floorf(pixel), fraction = pixel - below, rest = 1.f - fraction;
    // Beyond float32's whole numbers this is rounded as the extent was: the last pixel is still found.
    bool const first = below < 0.f, last = below + 1.f >= extent;
    int const index = int(below);
    low = first ? 0 : index, high = last ? index : index + 1;
    low_weight = first ? 0.5f * fraction : last ? 0.5f * rest : rest;
    high_weight = last ? 0.5f * rest : first ? 0.5f * fraction : fraction;
  }
};

// Writes the point at pixel (x, y) of a level, whose rows lie `pitch` vectors apart. A NaN coordinate makes it NaN, and
// so does a weight that is not finite times the zero outside the map.
template <class T, bool kPacked>
__device__ void write_point(MsDeformAttnPoints& points, int slot, float x, float y, MsDeformAttnLevel const& level,
                            int pitch, float weight) {
  MsDeformAttnAxis const column(x, level.width), row(y, level.height);
  bool const inside = column.inside && row.inside;
  bool const nothing = !isnan(x) && !isnan(y) && fabsf(weight) < INFINITY;
  int const top = (level.start + row.low * level.columns) * pitch, left = column.low * pitch;
  int const bottom = (level.start + row.high * level.columns) * pitch, right = column.high * pitch;
  points.corners[slot] = inside ? make_int4(top + left, top + right, bottom + left, bottom + right)
                                : make_int4(nothing ? kNoPoint : 0, 0, 0, 0);
  weight = inside ? weight : nanf("");
  if constexpr (kPacked) {
    points.weights[slot] = make_float4(
        pair_bits<T>(row.low_weight * column.low_weight, row.low_weight * column.high_weight),
        pair_bits<T>(row.high_weight * column.low_weight, row.high_weight * column.high_weight), weight, 0.f);
  } else {
    float const upper = row.low_weight * weight, lower = row.high_weight * weight;
    points.weights[slot] = make_float4(upper * column.low_weight, upper * column.high_weight, lower * column.low_weight,
                                       lower * column.high_weight);
  }
}

// Where the point of lane `index` of a group lies: lanes that write or read together meet different banks.
__device__ inline int point_slot(MsDeformAttnPlan const& plan, int group, int index) {
  return (index * plan.groups + group) ^ (2 * index & (plan.groups - 1));
}

}  // namespace bridge
