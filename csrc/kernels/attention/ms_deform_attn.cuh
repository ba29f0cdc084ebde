// Multi-scale deformable attention with sampling locations and attention weights as they are.
#pragma once

#include "kernels/attention/ms_deform_attn_tiles.cuh"

namespace bridge {

// How the tensors of points are read: whether pairs are aligned for one access, and whether all are known to be of T;
// else each is float32 or T, as it says.
template <class T, bool kAligned, bool kAlike>
struct PointReader {
  static __device__ float one(void const* data, bool is_float, int64_t i) {
    return !kAlike && is_float ? static_cast<float const*>(data)[i] : to_float(static_cast<T const*>(data)[i]);
  }

  // data[2 i] and data[2 i + 1].
  static __device__ float2 two(void const* data, bool is_float, int64_t i) {
    if constexpr (!kAligned) return {one(data, is_float, 2 * i), one(data, is_float, 2 * i + 1)};
    if (!kAlike && is_float) return static_cast<float2 const*>(data)[i];
    auto const pair = static_cast<Vec<T, 2> const*>(data)[i];
    return {to_float(pair.lane[0]), to_float(pair.lane[1])};
  }
};

// The order of roundings is the reference's.
__device__ inline float pixel_of(float location, float extent) { return __fsub_rn(__fmul_rn(location, extent), 0.5f); }

// Each tensor is of float32, or of T.
template <class T>
struct MsDeformAttnLocations {
  void const* locations;  // [batch, queries, heads, levels, points, 2], x and y from 0 to 1
  void const* weights;    // [batch, queries, heads, levels, points]
  bool float_locations, float_weights;

  bool aligned_pairs() const { return aligned(locations, 2 * (float_locations ? sizeof(float) : sizeof(T))); }
  bool aligned_fours() const {
    return aligned(locations) && aligned(weights, 4 * (float_weights ? sizeof(float) : sizeof(T)));
  }
  bool alike() const { return !float_locations && !float_weights; }
};

template <class T, class Read>
struct MsDeformAttnSource : MsDeformAttnLocations<T> {
  struct Raw {
    float2 location;
    float weight;
  };
  struct State {};
  struct Ahead {};

  __device__ Raw load(MsDeformAttnArguments<T> const&, MsDeformAttnPlace const& place, int sample) const {
    int64_t const i = place.first + sample;
    return {Read::two(this->locations, this->float_locations, i), Read::one(this->weights, this->float_weights, i)};
  }
  __device__ Ahead ahead(MsDeformAttnArguments<T> const&, MsDeformAttnPlan const&, MsDeformAttnPlace const&,
                         MsDeformAttnLane const&) const {
    return {};
  }
  __device__ State begin(MsDeformAttnArguments<T> const&, MsDeformAttnPlan const&, MsDeformAttnPlace const&,
                         MsDeformAttnLane const&, Ahead const&) const {
    return {};
  }
  __device__ float2 pixel(MsDeformAttnArguments<T> const&, Raw const& raw, MsDeformAttnLevel const& level) const {
    return {pixel_of(raw.location.x, level.width), pixel_of(raw.location.y, level.height)};
  }
  __device__ float weight(Raw const& raw, State) const { return raw.weight; }
  __device__ float scale(State) const { return 1.f; }
};

// Four samples of a level at a time.
template <class T, bool kAlike>
struct MsDeformAttnFours : MsDeformAttnSource<T, PointReader<T, true, kAlike>> {
  using Base = MsDeformAttnSource<T, PointReader<T, true, kAlike>>;
  using Read = std::conditional_t<kAlike, T, float>;
  struct Four {
    Vec<Read, 8> location;
    Vec<Read, 4> weight;
  };
  using Base::pixel, Base::weight;
  static constexpr bool kScales = std::is_same_v<T, half>;  // weights are of any size

  __device__ float largest(Four const& four) const {
    float largest = 0.f;
#pragma unroll
    for (int k = 0; k < 4; ++k) largest = fmaxf(largest, fabsf(to_float(four.weight.lane[k])));
    return largest;
  }
  __device__ Four four(MsDeformAttnArguments<T> const&, MsDeformAttnPlace const& place, int sample, int) const {
    int64_t const i = place.first + sample;
    return {read_once<Read, T, 8>(this->locations, this->float_locations, 2 * i),
            read_once<Read, T, 4>(this->weights, this->float_weights, i)};
  }
  __device__ typename Base::State begin_fours(MsDeformAttnArguments<T> const&, MsDeformAttnPlace const&, int,
                                              Four const&) const {
    return {};
  }
  __device__ float2 pixel(MsDeformAttnArguments<T> const&, Four const& four, int k,
                          MsDeformAttnTileLevel const& level) const {
    return {pixel_of(to_float(four.location.lane[2 * k]), level.width),
            pixel_of(to_float(four.location.lane[2 * k + 1]), level.height)};
  }
  __device__ float weight(Four const& four, int k, typename Base::State) const { return to_float(four.weight.lane[k]); }
};

template <class T, int N, bool kPacked, bool kAlike>
__global__ void __launch_bounds__(kMsDeformAttnWarps* kWarpSize) ms_deform_attn_kernel(
    MsDeformAttnArguments<T> a, MsDeformAttnPlan plan, MsDeformAttnLocations<T> locations) {
  ms_deform_attn_blocks<T, N, kPacked>(a, plan, MsDeformAttnSource<T, PointReader<T, (N > 1), kAlike>>{locations});
}

template <class T, bool kAlike, bool kEightHeads>
__global__ void __launch_bounds__(MsDeformAttnTilesPlan::kWarps* kWarpSize, 1) ms_deform_attn_tiles_kernel(
    MsDeformAttnArguments<T> a, MsDeformAttnTilesPlan plan, MsDeformAttnLocations<T> locations) {
  ms_deform_attn_tiles<T, kEightHeads>(a, plan, MsDeformAttnFours<T, kAlike>{{{locations}}});
}

// packed: whether 16-bit samples are interpolated in T.
template <class T>
cudaError_t launch_ms_deform_attn(MsDeformAttnArguments<T> const& a, MsDeformAttnLocations<T> const& locations,
                                  bool packed, int multiprocessors, cudaStream_t stream) {
  constexpr int kLanes = kAccessBytes / sizeof(T);
  if constexpr (sizeof(T) == 2) {
    if (packed && MsDeformAttnTilesPlan::takes(a, locations, multiprocessors)) {
      auto const kernel = a.heads != 8        ? ms_deform_attn_tiles_kernel<T, false, false>
                          : locations.alike() ? ms_deform_attn_tiles_kernel<T, true, true>
                                              : ms_deform_attn_tiles_kernel<T, false, true>;
      return launch_ms_deform_attn_tiles(a, locations, kernel, multiprocessors, stream);
    }
  }
  constexpr bool kPacks = sizeof(T) == 2;
  MsDeformAttnKernels<decltype(&ms_deform_attn_kernel<T, 1, false, false>)> const kernels{
      ms_deform_attn_kernel<T, kLanes, false, false>, ms_deform_attn_kernel<T, kLanes, kPacks, false>,
      ms_deform_attn_kernel<T, kLanes, kPacks, kPacks>, ms_deform_attn_kernel<T, 4, false, false>,
      ms_deform_attn_kernel<T, 1, false, false>};
  return launch_ms_deform_attn(a, locations, kernels, packed, multiprocessors, stream);
}

}  // namespace bridge
