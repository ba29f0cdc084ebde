// Multi-scale deformable attention (Zhu et al., https://arxiv.org/abs/2010.04159, equation 3): what its kernels share.
//
// A group of lanes owns a query and a head. Its lanes work out one sampling point each (four corners and their
// weights), exchange those through shared memory, and then gather: `channels` lanes take a vector of the head's
// channels each, and where the group is larger, its parts take points in turn and add up at the end.
// A block takes queries that follow one another in one head, whose samples lie close together, so that they meet in L1.
#pragma once

#include <limits>
#include <type_traits>

#include "kernels/attention/ms_deform_attn_points.cuh"

namespace bridge {

// Channels of a corner: 16 or 8 bytes of them, or one.
template <class T, int N>
using MsDeformAttnChannels = std::conditional_t<N == 1, T, std::conditional_t<N * sizeof(T) == 8, uint2, uint4>>;

template <class T, int N>
__device__ MsDeformAttnChannels<T, N> load_corner(MsDeformAttnChannels<T, N> const* base, int corner) {
  return __ldg(base + unsigned(corner));
}

__device__ inline void spread(uint4 const& bits, uint32_t (&word)[4]) {
  word[0] = bits.x, word[1] = bits.y, word[2] = bits.z, word[3] = bits.w;
}
__device__ inline void spread(uint2 const& bits, uint32_t (&word)[2]) { word[0] = bits.x, word[1] = bits.y; }

template <class T, int N>
__device__ void to_floats(MsDeformAttnChannels<T, N> const& channels, float (&value)[N]) {
  if constexpr (N == 1) {
    value[0] = to_float(channels);
  } else {
    constexpr int kWords = N * sizeof(T) / sizeof(uint32_t);
    uint32_t word[kWords];
    spread(channels, word);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == sizeof(float)) {
        value[i] = __uint_as_float(word[i]);
      } else {
        float2 const two = to_floats(*reinterpret_cast<PairOf<T> const*>(&word[i]));
        value[2 * i] = two.x, value[2 * i + 1] = two.y;
      }
    }
  }
}

template <class T, int N>
__device__ void add_exact(float (&sum)[N], MsDeformAttnChannels<T, N> const (&corners)[4], float4 const& weights) {
  float const weight[4] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float value[N];
    to_floats<T, N>(corners[i], value);
#pragma unroll
    for (int lane = 0; lane < N; ++lane) sum[lane] = fmaf(weight[i], value[lane], sum[lane]);
  }
}

// Four corners and their weights, between which it interpolates in T, two channels at a time.
template <class T>
struct PackedCorners {
  using Pair = PairOf<T>;
  Pair weight[4];
  uint32_t word[4][4];

  // upper, lower: two weights of T each.
  __device__ PackedCorners(uint4 const (&corners)[4], float const& upper, float const& lower) {
    Pair const top = *reinterpret_cast<Pair const*>(&upper), bottom = *reinterpret_cast<Pair const*>(&lower);
    weight[0] = low_twice(top), weight[1] = high_twice(top);
    weight[2] = low_twice(bottom), weight[3] = high_twice(bottom);
#pragma unroll
    for (int i = 0; i < 4; ++i) spread(corners[i], word[i]);
  }
  __device__ Pair channels(int corner, int two) const { return *reinterpret_cast<Pair const*>(&word[corner][two]); }
  __device__ Pair sample(int two) const { return others(two, __hmul2(weight[0], channels(0, two))); }
  __device__ Pair sample(int two, Pair const& before) const {  // before + sample
    return others(two, multiply_add_lanes(weight[0], channels(0, two), before));
  }

 private:
  __device__ Pair others(int two, Pair sum) const {
#pragma unroll
    for (int i = 1; i < 4; ++i) sum = multiply_add_lanes(weight[i], channels(i, two), sum);
    return sum;
  }
};

// The sum over points stays float32.
template <class T>
__device__ void add_packed(float (&sum)[8], uint4 const (&corners)[4], float4 const& weights, bool counts) {
  PackedCorners<T> const packed(corners, weights.x, weights.y);
#pragma unroll
  for (int two = 0; two < 4; ++two) {
    float2 const wide = to_floats(packed.sample(two));
    if (counts) sum[2 * two] = fmaf(weights.z, wide.x, sum[2 * two]);
    if (counts) sum[2 * two + 1] = fmaf(weights.z, wide.y, sum[2 * two + 1]);
  }
}

// Adds the first `count` points of a batch. Those after them that complete a pair are there, and count for nothing.
template <class T, int N, bool kPacked>
__device__ void gather(MsDeformAttnPlan const& plan, MsDeformAttnLane const& lane, MsDeformAttnPoints const& points,
                       int count, MsDeformAttnChannels<T, N> const* base, float (&sum)[N]) {
  // Points whose corners are loaded together; divides plan.channels. Vectors in float32 leave registers for one.
  constexpr int kAtOnce = N * sizeof(T) == kAccessBytes && !kPacked ? 1 : 2;
#pragma unroll 1
  for (int first = lane.part; first < count; first += kAtOnce * plan.parts) {
    MsDeformAttnChannels<T, N> corners[kAtOnce][4];
    float4 weights[kAtOnce];
    bool counts[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int const slot = point_slot(plan, lane.group, first + i * plan.parts);
      int4 const corner = points.corners[slot];
      weights[i] = points.weights[slot], counts[i] = corner.x >= 0;
      corners[i][0] = load_corner<T, N>(base, max(corner.x, 0));
      corners[i][1] = load_corner<T, N>(base, corner.y);
      corners[i][2] = load_corner<T, N>(base, corner.z);
      corners[i][3] = load_corner<T, N>(base, corner.w);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if constexpr (kPacked) {
        add_packed<T>(sum, corners[i], weights[i], counts[i]);
      } else if (counts[i]) {
        add_exact<T, N>(sum, corners[i], weights[i]);
      }
    }
  }
}

// Stores a lane's channels, which its group's parts have added up among them.
template <class T, int N>
__device__ void store(T* out,  // [N]
                      float (&sum)[N], float scale, bool owns) {
  Vec<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.lane[i] = from_float<T>(sum[i] * scale);
  if (owns) *reinterpret_cast<Vec<T, N>*>(out) = result;
}

template <int N>
__device__ void add_parts(MsDeformAttnPlan const& plan, float (&sum)[N]) {
  for (int distance = plan.channels; distance < plan.group; distance *= 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], distance);
  }
}

// What points that count for nothing read of an empty value, which has no position 0.
static __device__ uint4 const kNoPosition{};

// Source: where points and their attention weights come from, see ms_deform_attn.cuh. `sample` numbers [levels,
// points].
//   load(a, place, sample) → Raw          reads what belongs to a point
//   ahead(a, plan, place, lane) → Ahead   reads the first of what belongs to a query and a head, a unit ahead
//   begin(a, plan, place, lane, ahead) → State
//   pixel(a, raw, level) → float2         x and y in pixels
//   weight(raw, state), scale(state)      of a point; of the sum of all
// One function on purpose: cut up, nvcc makes other code of it than what was measured.
template <class T, int N, bool kPacked, class Source>
__device__ void ms_deform_attn_blocks(MsDeformAttnArguments<T> const& a, MsDeformAttnPlan const& plan,
                                      Source const& source) {
  extern __shared__ MsDeformAttnPoints shared[];  // [warps], and after them the levels: [samples]
  int const warp = kept(static_cast<int>(threadIdx.x / kWarpSize)), samples = a.samples();
  auto& points = shared[warp];
  auto* levels = reinterpret_cast<MsDeformAttnLevel*>(shared + plan.warps);
  MsDeformAttnLane const lane(plan);
  // Blocks take runs of units: the queries of a run sample close together.
  int64_t const begin = plan.units * blockIdx.x / gridDim.x, end = plan.units * (blockIdx.x + 1) / gridDim.x;
  int const step = static_cast<int>(blockDim.x / kWarpSize);
  int left = static_cast<int>(end - begin) - warp;
  MsDeformAttnUnit at(plan, begin + warp);
  auto place_of = [&](MsDeformAttnUnit const& u) {  // the last query stands for those past it
    int const index = min(u.query_tile * plan.queries + lane.query, a.queries - 1);
    int64_t const query = int64_t(u.n) * a.queries + index;
    int64_t const row = query * a.heads + u.head + lane.head;
    return MsDeformAttnPlace{query, row, row * samples};
  };
  auto load = [&](MsDeformAttnPlace const& place, int sample) {
    return sample < samples ? source.load(a, place, sample) : typename Source::Raw{};
  };
  // The first points are on their way while the levels are read.
  auto place = place_of(at);
  auto raw = left > 0 ? load(place, lane.index) : typename Source::Raw{};
  auto ahead = left > 0 ? source.ahead(a, plan, place, lane) : typename Source::Ahead{};
  fill_levels(a, levels);
  __syncthreads();

  bool const some = a.positions > 0;
  T const* const value = some ? a.value : reinterpret_cast<T const*>(&kNoPosition);
  int const pitch = some ? a.heads * a.head_dim / N : 0;
  int const slot = kept(point_slot(plan, lane.group, lane.index));
  for (; left > 0; left -= step) {
    auto const state = source.begin(a, plan, place, lane, ahead);
    int const channel = (at.channel_tile * plan.channels + lane.channel) * N;
    bool const has_channel = channel < a.head_dim;
    int64_t const head = int64_t(at.n) * a.positions * a.heads + at.head + lane.head;
    int64_t const start = head * a.head_dim + (has_channel ? channel : 0);
    auto const* map = reinterpret_cast<MsDeformAttnChannels<T, N> const*>(value + (some ? start : 0));
    float sum[N] = {};
#pragma unroll 1
    for (int first = 0; first < samples; first += plan.group) {
      int const sample = first + lane.index;
      if (sample < samples) {
        MsDeformAttnLevel const level = levels[sample];
        float2 const pixel = source.pixel(a, raw, level);
        write_point<T, kPacked>(points, slot, pixel.x, pixel.y, level, pitch, source.weight(raw, state));
      } else {
        points.corners[slot] = make_int4(kNoPoint, 0, 0, 0), points.weights[slot] = make_float4(0.f, 0.f, 0.f, 0.f);
      }
      __syncwarp();
      if (first + plan.group < samples) raw = load(place, sample + plan.group);
      int const count = min(plan.group, samples - first);
      if constexpr (sizeof(T) == sizeof(float)) {  // in two stages, for the error of one grows with the samples
        float batch[N] = {};
        gather<T, N, kPacked>(plan, lane, points, count, map, batch);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += batch[i];
      } else {
        gather<T, N, kPacked>(plan, lane, points, count, map, sum);
      }
      __syncwarp();
    }
    bool const owns = has_channel && lane.part == 0 && at.query_tile * plan.queries + lane.query < a.queries;
    T* const out = a.out + place.row * a.head_dim + channel;
    at.advance(plan, a.heads, step);
    place = place_of(at);
    if (left > step) raw = load(place, lane.index), ahead = source.ahead(a, plan, place, lane);
    add_parts(plan, sum);
    store<T, N>(out, sum, source.scale(state), owns);
  }
}

// A kernel for each way to take channels: vectors of 16 bytes, vectors of 8 bytes where rows are not aligned for more
// (`halved`), or one by one (`narrow`). Vectors of 16-bit channels are interpolated in float32 (`exact`) or in T
// (`packed`; `alike` where its points are of T too).
template <class Kernel>
struct MsDeformAttnKernels {
  Kernel exact, packed, alike, halved, narrow;
};

// Bytes of shared memory: the levels, and the points of each warp.
inline unsigned ms_deform_attn_shared(MsDeformAttnPlan const& plan, int samples) {
  return static_cast<unsigned>(samples * sizeof(MsDeformAttnLevel) + plan.warps * sizeof(MsDeformAttnPoints));
}

template <class T, class Source, class Kernel>
cudaError_t launch_ms_deform_attn(MsDeformAttnArguments<T> const& a, Source const& source,
                                  MsDeformAttnKernels<Kernel> const& kernels, bool packed, int multiprocessors,
                                  cudaStream_t stream) {
  if (a.batch == 0 || a.queries == 0 || a.heads == 0 || a.head_dim == 0) return cudaSuccess;
  constexpr int kLanes = kAccessBytes / sizeof(T);
  auto takes = [&](int lanes) {
    size_t const bytes = lanes * sizeof(T);
    return a.head_dim % lanes == 0 && aligned(a.value, bytes) && aligned(a.out, bytes) && source.aligned_pairs();
  };
  bool const wide = takes(kLanes), halved = !wide && sizeof(T) == 2 && takes(kLanes / 2);
  auto const plan = ms_deform_attn_plan(a, wide ? kLanes : halved ? kLanes / 2 : 1, multiprocessors);
  constexpr int kMost = std::numeric_limits<int>::max();  // that a block and a lane count to
  if (ceil_divide(plan.units, plan.blocks) > kMost || a.queries > kMost - kWarpSize) return cudaErrorInvalidValue;
  auto const packing = source.alike() ? kernels.alike : kernels.packed;
  auto const kernel = wide ? (packed ? packing : kernels.exact) : halved ? kernels.halved : kernels.narrow;
  kernel<<<plan.blocks, plan.warps * kWarpSize, ms_deform_attn_shared(plan, a.samples()), stream>>>(a, plan, source);
  return cudaGetLastError();
}

}  // namespace bridge
