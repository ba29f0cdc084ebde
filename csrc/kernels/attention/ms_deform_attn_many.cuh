// Multi-scale deformable attention where queries fill the GPU, heads have 32 channels of 16 bits and levels have points
// in fours. What bounds it is the L1: a point is 16 bytes in shared memory, where the general kernel has 32, and
// registers are few, so that twice as many warps wait for their corners.
#pragma once

#include "kernels/attention/ms_deform_attn_gather.cuh"

namespace bridge {

struct MsDeformAttnManyPlan {
  static constexpr int kWarps = 32, kLanes = 4, kHeads = 2, kQueries = 4;  // lanes of a (query, head); of a warp
  static constexpr int kChannels = 32, kFewRows = 16384;  // with fewer, the general kernel spreads a query's points
  int query_tiles, units, blocks;

  template <class T, class Source>
  static bool takes(MsDeformAttnArguments<T> const& a, Source const& source) {
    int64_t const rows = int64_t(a.batch) * a.queries * a.heads, most = std::max(a.samples(), a.head_dim);
    bool const are_aligned = aligned(a.value) && aligned(a.out) && source.aligned_pairs();
    return sizeof(T) == 2 && are_aligned && a.head_dim == kChannels && a.heads % kHeads == 0 &&
           a.points % kLanes == 0 && a.positions > 0 && rows >= kFewRows &&
           rows <= std::numeric_limits<int>::max() / most;
  }
  template <class T>
  MsDeformAttnManyPlan(MsDeformAttnArguments<T> const& a, int multiprocessors)
      : query_tiles(static_cast<int>(ceil_divide(a.queries, kQueries))),
        units(a.batch * (a.heads / kHeads) * query_tiles),
        blocks(static_cast<int>(std::min(int64_t(multiprocessors), ceil_divide(units, kWarps)))) {}
};

// A point as lanes hand it to each other. corner: of its upper left one, how far it is from the first position, in
// vectors of channels; above that, whether the others are one position to the right and one row below. Negative: the
// point counts for nothing. weights: four of T, of the corners.
struct alignas(16) MsDeformAttnPoint {
  static constexpr int kRight = 1 << 30, kBelow = 1 << 29, kCorner = kBelow - 1;
  int corner;
  float weight;
  float2 weights;
};

template <class T>
__device__ MsDeformAttnPoint make_point(float2 pixel, MsDeformAttnLevel const& level, int pitch, float weight) {
  MsDeformAttnAxis const column(pixel.x, level.width), row(pixel.y, level.height);
  bool const inside = column.inside && row.inside;
  bool const nothing = !isnan(pixel.x) && !isnan(pixel.y) && fabsf(weight) < INFINITY;
  int const first = (level.start + row.low * level.columns + column.low) * pitch;
  int const steps =
      (column.high > column.low ? MsDeformAttnPoint::kRight : 0) | (row.high > row.low ? MsDeformAttnPoint::kBelow : 0);
  return {inside    ? first | steps
          : nothing ? kNoPoint
                    : 0,
          inside ? weight : nanf(""),
          {pair_bits<T>(row.low_weight * column.low_weight, row.low_weight * column.high_weight),
           pair_bits<T>(row.high_weight * column.low_weight, row.high_weight * column.high_weight)}};
}

// base[index], by one instruction: the compiler would spread the sum over those around it.
__device__ inline uint4 corner_at(uint4 const* base, int index) {
  uint64_t address;
  asm("mad.wide.u32 %0, %1, 16, %2;" : "=l"(address) : "r"(index), "l"(base));
  return __ldg(reinterpret_cast<uint4 const*>(address));
}

// sum += weight * sample, lane by lane, unless `corner` is negative. In place, which the compiler would not do.
template <class Pair>
__device__ void add_where(float (&sum)[8], Pair const (&sample)[4], float weight, int corner) {
  float2 const a = to_floats(sample[0]), b = to_floats(sample[1]), c = to_floats(sample[2]), d = to_floats(sample[3]);
  asm("{ .reg .pred counts; setp.ge.s32 counts, %17, 0;\n"
      "@counts fma.rn.f32 %0, %16, %8, %0;\n @counts fma.rn.f32 %1, %16, %9, %1;\n"
      "@counts fma.rn.f32 %2, %16, %10, %2;\n @counts fma.rn.f32 %3, %16, %11, %3;\n"
      "@counts fma.rn.f32 %4, %16, %12, %4;\n @counts fma.rn.f32 %5, %16, %13, %5;\n"
      "@counts fma.rn.f32 %6, %16, %14, %6;\n @counts fma.rn.f32 %7, %16, %15, %7; }\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]), "+f"(sum[7])
      : "f"(a.x), "f"(a.y), "f"(b.x), "f"(b.y), "f"(c.x), "f"(c.y), "f"(d.x), "f"(d.y), "f"(weight), "r"(corner));
}

// Gathers the four corners of a point, interpolates in T and adds it up in float32.
template <class T>
__device__ void add_point(float (&sum)[8], uint4 const* map, MsDeformAttnPoint const& point, int pitch, int row_pitch) {
  int const first = point.corner & MsDeformAttnPoint::kCorner;
  int const right = point.corner & MsDeformAttnPoint::kRight ? pitch : 0;
  int const lower = point.corner & MsDeformAttnPoint::kBelow ? first + row_pitch : first;
  uint4 const corners[4] = {corner_at(map, first), corner_at(map, first + right), corner_at(map, lower),
                            corner_at(map, lower + right)};
  PackedCorners<T> const packed(corners, point.weights.x, point.weights.y);
  PairOf<T> const sample[4] = {packed.sample(0), packed.sample(1), packed.sample(2), packed.sample(3)};
  add_where(sum, sample, point.weight, point.corner);
}

// A warp takes four queries of two heads at a time: see MsDeformAttnPlan for the heads. Blocks take runs of such units.
template <class T, class Source>
__device__ void ms_deform_attn_many(MsDeformAttnArguments<T> const& a, MsDeformAttnManyPlan const& plan,
                                    Source const& source) {
  using Plan = MsDeformAttnManyPlan;
  constexpr int kLanes = Plan::kLanes, kGroups = kWarpSize / kLanes, N = Plan::kChannels / kLanes;
  extern __shared__ MsDeformAttnPoint many_shared[];  // [kWarps, kWarpSize], and after them the levels: [samples]
  int const warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  auto* const points = many_shared + warp * kWarpSize;
  auto* const levels = reinterpret_cast<MsDeformAttnLevel*>(many_shared + Plan::kWarps * kWarpSize);
  fill_levels(a, levels);
  __syncthreads();
  int const index = lane % kLanes, group = lane / kLanes, samples = a.samples(), pitch = a.heads * kLanes;
  auto slot = [&](int i) { return i * kGroups + (group ^ (2 * i & (kGroups - 1))); };  // as point_slot, in fewer steps
  MsDeformAttnLane const self{group, index};
  MsDeformAttnPlan lanes{};
  lanes.group = kLanes;
  int const begin = static_cast<int>(int64_t(plan.units) * blockIdx.x / gridDim.x);
  int const end = static_cast<int>(int64_t(plan.units) * (blockIdx.x + 1) / gridDim.x);
#pragma unroll 1
  for (int unit = begin + warp; unit < end; unit += Plan::kWarps) {
    int const tile = unit % plan.query_tiles, pair = unit / plan.query_tiles;
    int const head = pair % (a.heads / Plan::kHeads) * Plan::kHeads + group % Plan::kHeads;
    int const n = pair / (a.heads / Plan::kHeads), turn = tile * Plan::kQueries + group / Plan::kHeads;
    int const query = n * a.queries + min(turn, a.queries - 1), row = query * a.heads + head;
    MsDeformAttnPlace const place{query, row, row * samples};
    auto raw = source.load(a, place, index);
    auto const state = source.begin(a, lanes, place, self, source.ahead(a, lanes, place, self));
    auto const* map = reinterpret_cast<uint4 const*>(a.value + int64_t(n) * a.positions * a.heads * Plan::kChannels) +
                      (head * kLanes + index);
    asm("" : "+l"(map));  // one address: the compiler would add up its parts for every corner
    float sum[N] = {};
#pragma unroll 1
    for (int first = 0; first < samples; first += kLanes) {
      MsDeformAttnLevel const level = levels[first];
      points[slot(index)] = make_point<T>(source.pixel(a, raw, level), level, pitch, source.weight(raw, state));
      __syncwarp();
      if (first + kLanes < samples) raw = source.load(a, place, first + kLanes + index);
#pragma unroll
      for (int i = 0; i < kLanes; ++i) add_point<T>(sum, map, points[slot(i)], pitch, level.columns * pitch);
      __syncwarp();
    }
    store<T, N>(a.out + int64_t(row) * Plan::kChannels + index * N, sum, source.scale(state), turn < a.queries);
  }
}

template <class T, class Source, class Kernel>
cudaError_t launch_ms_deform_attn_many(MsDeformAttnArguments<T> const& a, Source const& source, Kernel kernel,
                                       int multiprocessors, cudaStream_t stream) {
  using Plan = MsDeformAttnManyPlan;
  Plan const plan(a, multiprocessors > 0 ? multiprocessors : kUsualMultiprocessors);
  size_t const shared = Plan::kWarps * kWarpSize * sizeof(MsDeformAttnPoint) + a.samples() * sizeof(MsDeformAttnLevel);
  kernel<<<plan.blocks, Plan::kWarps * kWarpSize, shared, stream>>>(a, plan, source);
  return cudaGetLastError();
}

}  // namespace bridge
