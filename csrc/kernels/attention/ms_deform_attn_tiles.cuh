// Multi-scale deformable attention where queries fill the GPU, heads have 32 channels of 16 bits and levels have points
// in fours. What bounds it is the L1, so that it is asked for nothing but corners, which stay there for other queries:
// where each position of the levels has its query, as in an encoder, blocks take parts of the image.
#pragma once

#include "kernels/attention/ms_deform_attn_tile_points.cuh"

namespace bridge {

// A sum of what is not finite, again: a point outside its level counts for nothing, however infinite what lies next to
// it.
template <class T, class Source>
__device__ void add_exactly(MsDeformAttnArguments<T> const& a, Source const& source,
                            typename Source::State const& state, MsDeformAttnPlace const& place, uint4 const* map,
                            int pitch, float (&sum)[8]) {
  float again[8] = {};
#pragma unroll 1
  for (int sample = 0; sample < a.samples(); ++sample) {
    MsDeformAttnLevel const level = load_level(a, sample / a.points);
    auto const raw = source.load(a, place, sample);
    auto const point = make_point<T>(source.pixel(a, raw, level), level, pitch, source.weight(raw, state));
    add_point<T>(again, map, point, pitch, level.columns * pitch);
  }
  bool const replaces = !all_finite(sum);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] = replaces ? again[i] : sum[i];
}

// What a lane reads of its (query, head) at a time: two samples of eight.
constexpr int kTwo = 2;

// kEightHeads: whether there are eight, which saves additions; else any even number of them.
template <class T, bool kEightHeads, class Source>
__device__ void ms_deform_attn_tiles(MsDeformAttnArguments<T> const& a, MsDeformAttnTilesPlan const& plan,
                                     Source const& source) {
  using Plan = MsDeformAttnTilesPlan;
  constexpr int kLanes = Plan::kLanes, kGroups = kWarpSize / kLanes, N = Plan::kChannels / kLanes;
  extern __shared__ MsDeformAttnPoint tile_points[];  // [kWarps, kRound, kGroups]; more lies behind
  auto* const levels = reinterpret_cast<MsDeformAttnTileLevel*>(tile_points + Plan::kWarps * Plan::kRound * kGroups);
  auto* const table = reinterpret_cast<int*>(levels + a.samples() / 4);
  auto& shared = *reinterpret_cast<MsDeformAttnUnits::Shared*>(table + Plan::kMostUnits);
  int const part = static_cast<int>(blockIdx.x) % plan.parts;
  if (threadIdx.x < kWarpSize) MsDeformAttnUnits::share(a, part, plan.parts, shared);
  fill_tile_levels(a, levels);
  __syncthreads();
  MsDeformAttnUnits const units(a, part, plan.parts, shared, table);
  __syncthreads();

  int const warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int const index = lane % kLanes, group = lane / kLanes, samples = a.samples(),
            pitch = (kEightHeads ? 8 : a.heads) * kLanes;
  int const head = static_cast<int>(blockIdx.x) / plan.parts * Plan::kHeads + group % Plan::kHeads;
  auto* const points = tile_points + warp * Plan::kRound * kGroups;
  auto slot = [&](int i) { return i * kGroups + (group ^ (i / kTwo * 2 & (kGroups - 1))); };

  int n = (units.first + warp) / units.an_image, within = (units.first + warp) % units.an_image;
  bool owns = false;
  auto find_place = [&] {
    int const turn = group / Plan::kHeads, entry = units.tiled ? table[within] : 0;
    int const first = units.tiled ? entry & ((1 << Plan::kCountBit) - 1) : within * Plan::kQueries;
    int const count = units.tiled ? entry >> Plan::kCountBit : a.queries - first;
    owns = turn < count;
    int const query = n * a.queries + first + min(turn, count - 1), row = query * a.heads + head;
    return MsDeformAttnPlace{query, row, int64_t(row) * samples};
  };
  auto two = [&](MsDeformAttnPlace const& place, int sample) {
    return sample < samples ? source.two(a, place, sample, levels[sample / 4].index) : typename Source::Two{};
  };
  MsDeformAttnPlace place{};
  typename Source::Two raw{};
  typename Source::TwosAhead ahead{};
  auto begin = [&] {
    place = find_place();
    raw = two(place, index * kTwo), ahead = source.twos_ahead(a, place, index);
  };
  if (warp < units.all) begin();
#pragma unroll 1
  for (int i = warp; i < units.all;) {
    auto const state = source.begin_twos(a, place, index, ahead);
    auto const* map = reinterpret_cast<uint4 const*>(a.value + int64_t(n) * a.positions * a.heads * Plan::kChannels) +
                      (head * kLanes + index);
    asm("" : "+l"(map));  // one address: the compiler would add up its parts for every corner
    float sum[N] = {};
#pragma unroll 1
    for (int first = 0; first < samples; first += Plan::kRound) {
      int const sample = first + index * kTwo;
      if (sample < samples) {
        MsDeformAttnTileLevel const level = levels[sample / 4];
#pragma unroll
        for (int k = 0; k < kTwo; ++k)
          points[slot(index * kTwo + k)] =
              make_tile_point<T>(source.pixel(a, raw, k, level), level, pitch, source.weight(raw, k, state));
      }
      __syncwarp();
      if (first + Plan::kRound < samples) raw = two(place, sample + Plan::kRound);
#pragma unroll
      for (int half = 0; half < Plan::kRound; half += 4) {
        if (first + half >= samples) break;
        int const down = levels[(first + half) / 4].columns * pitch;
#pragma unroll
        for (int k = half; k < half + 4; ++k) add_tile_point<T>(sum, map, points[slot(k)], pitch, down);
      }
      __syncwarp();
    }
    if (__any_sync(0xffffffffu, !all_finite(sum))) add_exactly(a, source, state, place, map, pitch, sum);
    T* const out = a.out + place.row * Plan::kChannels + index * N;
    bool const stores = owns;
    i += Plan::kWarps;
    for (within += Plan::kWarps; within >= units.an_image; within -= units.an_image) ++n;
    if (i < units.all) begin();
    store_once<T>(out, sum, source.scale(state), stores);
  }
}

template <class T, class Source, class Kernel>
cudaError_t launch_ms_deform_attn_tiles(MsDeformAttnArguments<T> const& a, Source const& source, Kernel kernel,
                                        int multiprocessors, cudaStream_t stream) {
  using Plan = MsDeformAttnTilesPlan;
  Plan const plan(a, multiprocessors);
  size_t const shared = Plan::kWarps * Plan::kRound * (kWarpSize / Plan::kLanes) * sizeof(MsDeformAttnPoint) +
                        a.samples() / 4 * sizeof(MsDeformAttnTileLevel) + Plan::kMostUnits * sizeof(int) +
                        sizeof(MsDeformAttnUnits::Shared);
  kernel<<<plan.pairs * plan.parts, Plan::kWarps * kWarpSize, shared, stream>>>(a, plan, source);
  return cudaGetLastError();
}

}  // namespace bridge
