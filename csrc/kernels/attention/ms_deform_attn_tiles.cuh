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

// What a lane reads of its (query, head) at a time: four samples of sixteen.
constexpr int kFour = 4;

// Lanes of a warp with a point outside its level, from which on it pays to leave such points out.
constexpr int kManyOutside = 8;

// kEightHeads: whether there are eight, which saves additions; else any even number of them.
template <class T, bool kEightHeads, class Source>
__device__ void ms_deform_attn_tiles(MsDeformAttnArguments<T> const& a, MsDeformAttnTilesPlan const& plan,
                                     Source const& source) {
  using Plan = MsDeformAttnTilesPlan;
  constexpr int kLanes = Plan::kLanes, kGroups = kWarpSize / kLanes, N = Plan::kChannels / kLanes,
                kFourWords = MsDeformAttnFourPoints::kWords, kWords = kLanes * kFourWords;
  extern __shared__ uint4 tile_points[];  // [kWarps, kWords, kGroups]; more lies behind
  auto* const levels = reinterpret_cast<MsDeformAttnTileLevel*>(tile_points + Plan::kWarps * kWords * kGroups);
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
  uint4* const points = tile_points + warp * kWords * kGroups;
  auto slot = [&](int four, int word) { return (four * kFourWords + word) * kGroups + (group ^ (2 * four)); };

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
  auto four = [&](MsDeformAttnPlace const& place, int sample) {
    return sample < samples ? source.four(a, place, sample, levels[sample / kFour].index) : typename Source::Four{};
  };
  MsDeformAttnPlace place{};
  typename Source::Four raw{};
  auto begin = [&] {
    place = find_place();
    raw = four(place, index * kFour);
  };
  if (warp < units.all) begin();
#pragma unroll 1
  for (int i = warp; i < units.all;) {
    auto const state = source.begin_fours(a, place, index, raw);
    auto const* map = reinterpret_cast<uint4 const*>(a.value + int64_t(n) * a.positions * a.heads * Plan::kChannels) +
                      (head * kLanes + index);
    asm("" : "+l"(map));  // one address: the compiler would add up its parts for every corner
    float sum[N] = {};
#pragma unroll 1
    for (int first = 0; first < samples; first += Plan::kRound) {
      int const sample = first + index * kFour;
      MsDeformAttnFourPoints own{};
      MsDeformAttnWeightScale scale;
      if constexpr (Source::kScales) scale = MsDeformAttnWeightScale(source.largest(raw));
      if (sample < samples) {
        MsDeformAttnTileLevel const level = levels[sample / kFour];
#pragma unroll
        for (int k = 0; k < kFour; ++k)
          write_tile_point<T>(own, k, source.pixel(a, raw, k, level), level, pitch,
                              source.weight(raw, k, state) * scale.up);
      }
      bool const leaves_out = __popc(__ballot_sync(0xffffffffu, own.some_outside())) >= kManyOutside;
      if (leaves_out) {
        own.sort();
      } else {
        own.move_inside();
      }
      points[slot(index, 0)] = own.corners;
      points[slot(index, 1)] = own.weights[0], points[slot(index, 2)] = own.weights[1];
      __syncwarp();
      if (first + Plan::kRound < samples) raw = four(place, sample + Plan::kRound);
      int const fours = min(kLanes, (samples - first) / kFour);
      auto add = [&](auto leaves) {
#pragma unroll 1
        for (int k = 0; k < fours; ++k) {
          MsDeformAttnFourPoints const next{points[slot(k, 0)], {points[slot(k, 1)], points[slot(k, 2)]}};
          add_four_points<T, decltype(leaves)::value>(sum, map, next, pitch, levels[first / kFour + k].columns * pitch,
                                                      scale.down);
        }
      };
      if (leaves_out) {
        add(std::true_type{});
      } else {
        add(std::false_type{});
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
  size_t const shared = Plan::kWarps * kWarpSize * sizeof(MsDeformAttnFourPoints) +
                        a.samples() / 4 * sizeof(MsDeformAttnTileLevel) + Plan::kMostUnits * sizeof(int) +
                        sizeof(MsDeformAttnUnits::Shared);
  kernel<<<plan.pairs * plan.parts, Plan::kWarps * kWarpSize, shared, stream>>>(a, plan, source);
  return cudaGetLastError();
}

}  // namespace bridge
