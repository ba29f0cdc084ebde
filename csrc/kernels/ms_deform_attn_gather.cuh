// Multi-scale deformable attention (Zhu et al., https://arxiv.org/abs/2010.04159, equation 3): what its kernels share.
//
// A group of lanes owns a query and a head. Its lanes work out one sampling point each (four corners and their
// weights), exchange those through shared memory, and then gather: `channels` lanes take a vector of the head's
// channels each, and where the group is larger, its parts take points in turn and add up at the end.
// A block takes queries that follow one another in one head, whose samples lie close together, so that they meet in L1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "vec.cuh"

namespace bridge {

// value: [batch, positions, heads, head_dim]; spatial_shapes: [levels, 2], (height, width) of each level;
// level_start_index: [levels], the position where each begins; out: [batch, queries, heads * head_dim].
template <class T>
struct MsDeformAttnArguments {
  T const* value;
  void const* spatial_shapes;
  void const* level_start_index;
  T* out;
  bool wide_shapes, wide_starts;  // int64, else int32
  int batch, queries, positions, heads, head_dim, levels, points;

  __host__ __device__ int samples() const { return levels * points; }
};

constexpr int kMsDeformAttnMaxSamples = 1024;  // levels * points: each has an entry in shared memory
constexpr int kMsDeformAttnWarps = 24;         // of a block, at most
constexpr int kWarpSize = 32;

// How lanes, warps and blocks share the work. A unit is what a warp does at a time: `queries` of one head, and of one
// tile of its channels where they are too many for a warp.
struct MsDeformAttnPlan {
  int group, queries;   // lanes of a (query, head); such groups in a warp. All powers of two
  int channels, parts;  // lanes of a group that share a point; of such parts, which take points in turn
  int channel_tiles, query_tiles;
  int64_t units;
  int warps, blocks;
};

// Few units are spread thinner, several lanes for the points of a query. multiprocessors: 0 where it is not known.
template <class T>
MsDeformAttnPlan ms_deform_attn_plan(MsDeformAttnArguments<T> const& a, int lanes, int multiprocessors) {
  constexpr int kFewWarps = 8, kUsual = 64;
  int64_t const processors = multiprocessors > 0 ? multiprocessors : kUsual, chunks = ceil_divide(a.head_dim, lanes);
  MsDeformAttnPlan plan{};
  plan.channels = 2;
  while (plan.channels < chunks && plan.channels < kWarpSize) plan.channels *= 2;
  plan.channel_tiles = static_cast<int>(ceil_divide(chunks, plan.channels));
  for (plan.group = plan.channels;; plan.group *= 2) {
    plan.queries = kWarpSize / plan.group, plan.parts = plan.group / plan.channels;
    plan.query_tiles = static_cast<int>(ceil_divide(a.queries, plan.queries));
    plan.units = int64_t(a.batch) * a.heads * plan.channel_tiles * plan.query_tiles;
    bool const divisible = plan.group < kWarpSize && plan.group < a.samples();
    if (!divisible || plan.units >= kFewWarps * processors) break;
  }
  plan.warps = static_cast<int>(std::clamp<int64_t>(ceil_divide(plan.units, processors), 1, kMsDeformAttnWarps));
  plan.blocks = static_cast<int>(std::min(ceil_divide(plan.units, plan.warps), processors));
  return plan;
}

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
    // As numbers of T the same as the extent where they are: a last pixel is never taken for one before it.
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

// Channels of a corner: 16 bytes of them, or one.
template <class T, int N>
using MsDeformAttnChannels = std::conditional_t<N == 1, T, uint4>;

template <class T, int N>
__device__ MsDeformAttnChannels<T, N> load_corner(MsDeformAttnChannels<T, N> const* base, int corner) {
  return __ldg(base + unsigned(corner));
}

__device__ inline void spread(uint4 const& bits, uint32_t (&word)[4]) {
  word[0] = bits.x, word[1] = bits.y, word[2] = bits.z, word[3] = bits.w;
}

template <class T, int N>
__device__ void to_floats(MsDeformAttnChannels<T, N> const& channels, float (&value)[N]) {
  if constexpr (N == 1) {
    value[0] = to_float(channels);
  } else {
    uint32_t word[4];
    spread(channels, word);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (N == 4) {
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

// Interpolates in T, two channels at a time; the sum over points stays float32.
template <class T>
__device__ void add_packed(float (&sum)[8], uint4 const (&corners)[4], float4 const& weights, bool counts) {
  using Pair = PairOf<T>;
  Pair const top = *reinterpret_cast<Pair const*>(&weights.x), bottom = *reinterpret_cast<Pair const*>(&weights.y);
  Pair const weight[4] = {low_twice(top), high_twice(top), low_twice(bottom), high_twice(bottom)};
  uint32_t word[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) spread(corners[i], word[i]);
#pragma unroll
  for (int two = 0; two < 4; ++two) {
    auto channels = [&](int i) { return *reinterpret_cast<Pair const*>(&word[i][two]); };
    Pair sample = __hmul2(weight[0], channels(0));
#pragma unroll
    for (int i = 1; i < 4; ++i) sample = __hfma2(weight[i], channels(i), sample);
    float2 const wide = to_floats(sample);
    if (counts) sum[2 * two] = fmaf(weights.z, wide.x, sum[2 * two]);
    if (counts) sum[2 * two + 1] = fmaf(weights.z, wide.y, sum[2 * two + 1]);
  }
}

// What a lane knows of itself.
struct MsDeformAttnLane {
  int group, index;   // which group of its warp; which lane of that
  int part, channel;  // index = part * plan.channels + channel: parts take points in turn, channels share one
  __device__ explicit MsDeformAttnLane(MsDeformAttnPlan const& plan) {
    int const lane = static_cast<int>(threadIdx.x % kWarpSize);
    group = lane / plan.group, index = lane % plan.group;
    part = index / plan.channels, channel = index % plan.channels;
  }
};

// Where the point of lane `index` of a group lies: lanes that write or read together meet different banks.
__device__ inline int point_slot(MsDeformAttnPlan const& plan, int group, int index) {
  return (index * plan.queries + group) ^ (2 * index & (plan.queries - 1));
}

// Adds the first `count` points of a batch. Those after them that complete a pair are there, and count for nothing.
template <class T, int N, bool kPacked>
__device__ void gather(MsDeformAttnPlan const& plan, MsDeformAttnLane const& lane, MsDeformAttnPoints const& points,
                       int count, MsDeformAttnChannels<T, N> const* base, float (&sum)[N]) {
  // Points whose corners are loaded together; divides plan.channels. Vectors in float32 leave registers for one.
  constexpr int kAtOnce = N > 1 && !kPacked ? 1 : 2;
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

// Where a warp is: a tile of queries, of a tile of channels, of a head, of an image.
struct MsDeformAttnUnit {
  int n, head, channel_tile, query_tile;

  __device__ MsDeformAttnUnit(MsDeformAttnPlan const& plan, int heads, int64_t unit) {
    auto take = [&](int extent) {
      int const index = static_cast<int>(unit % extent);
      unit /= extent;
      return index;
    };
    query_tile = take(plan.query_tiles), channel_tile = take(plan.channel_tiles), head = take(heads);
    n = static_cast<int>(unit);
  }
  __device__ void advance(MsDeformAttnPlan const& plan, int heads, int units) {
    for (query_tile += units; query_tile >= plan.query_tiles; query_tile -= plan.query_tiles) {
      if (++channel_tile < plan.channel_tiles) continue;
      channel_tile = 0;
      if (++head == heads) head = 0, ++n;
    }
  }
};

// Stores a lane's channels, which its group's parts have added up among them.
template <class T, int N>
__device__ void store(T* out, float (&sum)[N], float scale, bool owns) {
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

template <class T>
__device__ void fill_levels(MsDeformAttnArguments<T> const& a, MsDeformAttnLevel* levels) {
  for (int i = threadIdx.x; i < a.samples(); i += blockDim.x) levels[i] = load_level(a, i / a.points);
}

// A query, numbered within [batch, queries], and a head; `row` numbers both within [batch, queries, heads], and `first`
// is the first of their samples within [batch, queries, heads, levels, points].
struct MsDeformAttnPlace {
  int64_t query, row, first;
};

// Keeps a number in its register; the compiler would work it out anew in every round of a loop.
__device__ inline int kept(int value) {
  asm("" : "+r"(value));
  return value;
}

// Source: where points and their attention weights come from, see ms_deform_attn.cuh. `sample` numbers [levels,
// points].
//   load(a, place, sample) → Raw          reads what belongs to a point
//   begin(a, plan, place, lane) → State   reads what belongs to a query and a head
//   pixel(a, raw, level) → float2         x and y in pixels
//   weight(raw, state), scale(state)      of a point; of the sum of all
template <class T, int N, bool kPacked, class Source>
__device__ void ms_deform_attn_blocks(MsDeformAttnArguments<T> const& a, MsDeformAttnPlan const& plan,
                                      Source const& source) {
  extern __shared__ MsDeformAttnPoints shared[];
  int const warp = kept(static_cast<int>(threadIdx.x / kWarpSize)), samples = a.samples();
  auto& points = shared[warp];
  auto* levels = reinterpret_cast<MsDeformAttnLevel*>(shared + plan.warps);
  MsDeformAttnLane const lane(plan);
  // Blocks take runs of units: the queries of a run sample close together.
  int64_t const begin = plan.units * blockIdx.x / gridDim.x, end = plan.units * (blockIdx.x + 1) / gridDim.x;
  int const step = static_cast<int>(blockDim.x / kWarpSize);
  int left = static_cast<int>(end - begin) - warp;
  MsDeformAttnUnit at(plan, a.heads, begin + warp);
  auto place_of = [&](MsDeformAttnUnit const& u) {  // the last query stands for those past it
    int64_t const query = int64_t(u.n) * a.queries + min(u.query_tile * plan.queries + lane.group, a.queries - 1);
    return MsDeformAttnPlace{query, query * a.heads + u.head, (query * a.heads + u.head) * samples};
  };
  auto load = [&](MsDeformAttnPlace const& place, int sample) {
    return sample < samples ? source.load(a, place, sample) : typename Source::Raw{};
  };
  // The first points are on their way while the levels are read.
  auto place = place_of(at);
  auto raw = left > 0 ? load(place, lane.index) : typename Source::Raw{};
  fill_levels(a, levels);
  __syncthreads();

  // An empty value has no position 0, which points that count for nothing read: any memory will do.
  T const* const value = a.positions > 0 ? a.value : a.out;
  int const pitch = a.positions > 0 ? a.heads * a.head_dim / N : 0,
            slot = kept(point_slot(plan, lane.group, lane.index));
  for (; left > 0; left -= step) {
    auto const state = source.begin(a, plan, place, lane);
    int const channel = (at.channel_tile * plan.channels + lane.channel) * N;
    bool const has_channel = channel < a.head_dim;
    auto const* map = reinterpret_cast<MsDeformAttnChannels<T, N> const*>(
        value + (int64_t(at.n) * a.positions * a.heads + at.head) * a.head_dim + (has_channel ? channel : 0));
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
    bool const owns = has_channel && lane.part == 0 && at.query_tile * plan.queries + lane.group < a.queries;
    T* const out = a.out + place.row * a.head_dim + channel;
    at.advance(plan, a.heads, step);
    place = place_of(at);
    if (left > step) raw = load(place, lane.index);
    add_parts(plan, sum);
    store<T, N>(out, sum, source.scale(state), owns);
  }
}

// A kernel for each way to take channels: vectors of them, or one by one where rows are not aligned; vectors of 16-bit
// channels are interpolated in float32 (`exact`) or in T (`packed`).
template <class Kernel>
struct MsDeformAttnKernels {
  Kernel exact, packed, narrow;
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
  bool const wide = a.head_dim % kLanes == 0 && aligned(a.value) && aligned(a.out) && source.pairs_are_aligned();
  auto const plan = ms_deform_attn_plan(a, wide ? kLanes : 1, multiprocessors);
  auto const kernel = wide ? (packed ? kernels.packed : kernels.exact) : kernels.narrow;
  kernel<<<plan.blocks, plan.warps * kWarpSize, ms_deform_attn_shared(plan, a.samples()), stream>>>(a, plan, source);
  return cudaGetLastError();
}

}  // namespace bridge
