// How the kernels of multi-scale deformable attention share their work among lanes, warps and blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "kernels/common/vec.cuh"

namespace bridge {

template <class T>
struct MsDeformAttnArguments {
  T const* value;                 // [batch, positions, heads, head_dim]
  void const* spatial_shapes;     // [levels, 2], height and width of each level
  void const* level_start_index;  // [levels], the position where each begins
  T* out;                         // [batch, queries, heads, head_dim]
  bool wide_shapes, wide_starts;  // int64, else int32
  int batch, queries, positions, heads, head_dim, levels, points;

  __host__ __device__ int samples() const { return levels * points; }
};

constexpr int kMsDeformAttnMaxSamples = 1024;  // levels * points: each has an entry in shared memory
constexpr int kMsDeformAttnWarps = 32;         // of a block, at most
constexpr int kWarpSize = 32;
constexpr int kUsualMultiprocessors = 64;  // where it is not known how many there are

// How lanes, warps and blocks share the work. A unit is what a warp does at a time: queries of some heads, and of one
// tile of their channels where they are too many for a warp. Heads lie side by side in value: eight lanes, whose
// accesses a multiprocessor serves together, meet no bank of its L1 twice where they read of as many heads as fill 128
// bytes.
struct MsDeformAttnPlan {
  int group, groups;    // lanes of a (query, head); such groups in a warp. All powers of two
  int heads, queries;   // that the groups of a warp are of
  int channels, parts;  // lanes of a group that share a point; of such parts, which take points in turn
  int channel_tiles, head_tiles, query_tiles;
  int64_t units;
  int warps, blocks;
};

// Few units are spread thinner, several lanes for the points of a query. multiprocessors: 0 where it is not known.
template <class T>
MsDeformAttnPlan ms_deform_attn_plan(MsDeformAttnArguments<T> const& a, int lanes, int multiprocessors) {
  constexpr int kFewWarps = 8, kLanesServed = 8;
  int64_t const processors = multiprocessors > 0 ? multiprocessors : kUsualMultiprocessors,
                chunks = ceil_divide(a.head_dim, lanes);
  MsDeformAttnPlan plan{};
  plan.channels = 2;
  while (plan.channels < chunks && plan.channels < kWarpSize) plan.channels *= 2;
  plan.channel_tiles = static_cast<int>(ceil_divide(chunks, plan.channels));
  for (plan.group = plan.channels;; plan.group *= 2) {
    plan.groups = kWarpSize / plan.group, plan.parts = plan.group / plan.channels;
    plan.heads = 1;
    while (plan.group * plan.heads < kLanesServed && a.heads % (2 * plan.heads) == 0) plan.heads *= 2;
    plan.queries = plan.groups / plan.heads, plan.head_tiles = a.heads / plan.heads;
    plan.query_tiles = static_cast<int>(ceil_divide(a.queries, plan.queries));
    plan.units = (Size(a.batch) * plan.head_tiles * plan.channel_tiles * plan.query_tiles).value();
    bool const divisible = plan.group < kWarpSize && plan.group < a.samples();
    if (!divisible || plan.units >= kFewWarps * processors) break;
  }
  plan.warps = static_cast<int>(std::clamp<int64_t>(ceil_divide(plan.units, processors), 1, kMsDeformAttnWarps));
  plan.blocks = static_cast<int>(std::min(ceil_divide(plan.units, plan.warps), processors));
  return plan;
}

// Keeps a number in its register; the compiler would work it out anew in every round of a loop.
__device__ inline int kept(int value) {
  asm("" : "+r"(value));
  return value;
}

// What a lane knows of itself.
struct MsDeformAttnLane {
  int group, index;   // which group of its warp; which lane of that
  int query, head;    // of those of its warp
  int part, channel;  // index = part * plan.channels + channel: parts take points in turn, channels share one
  __device__ MsDeformAttnLane(int group, int index)  // of groups without parts
      : group(group), index(index), query(group), head(0), part(0), channel(index) {}
  __device__ explicit MsDeformAttnLane(MsDeformAttnPlan const& plan) {
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    group = lane / plan.group, index = lane % plan.group;
    query = kept(group / plan.heads), head = kept(group % plan.heads);
    part = index / plan.channels, channel = index % plan.channels;
  }
};

// Where a warp is: a tile of queries, of a tile of channels, of the heads from one on, of an image.
struct MsDeformAttnUnit {
  int n, head, channel_tile, query_tile;

  __device__ MsDeformAttnUnit(MsDeformAttnPlan const& plan, int64_t unit) {
    auto take = [&](int extent) {
      int const index = static_cast<int>(unit % extent);
      unit /= extent;
      return index;
    };
    query_tile = take(plan.query_tiles), channel_tile = take(plan.channel_tiles),
    head = take(plan.head_tiles) * plan.heads;
    n = static_cast<int>(unit);
  }
  __device__ void advance(MsDeformAttnPlan const& plan, int heads, int units) {
    for (query_tile += units; query_tile >= plan.query_tiles; query_tile -= plan.query_tiles) {
      if (++channel_tile < plan.channel_tiles) continue;
      channel_tile = 0;
      if ((head += plan.heads) == heads) head = 0, ++n;
    }
  }
};

// A query, numbered within [batch, queries], and a head; `row` numbers both within [batch, queries, heads], and `first`
// is the first of their samples within [batch, queries, heads, levels, points].
struct MsDeformAttnPlace {
  int64_t query, row, first;
};

}  // namespace bridge
