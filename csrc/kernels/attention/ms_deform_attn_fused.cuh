// Multi-scale deformable attention with what comes before it: locations from reference points and offsets, and the
// softmax of the attention weights (Zhu et al., https://arxiv.org/abs/2010.04159, section 4.1 and appendix A.4).
#pragma once

#include "kernels/attention/ms_deform_attn.cuh"

namespace bridge {

// Each tensor is of float32, or of T.
template <class T>
struct MsDeformAttnOffsets {
  void const* references;  // [batch, queries, levels, 2], x and y from 0 to 1; or 4, with a box's width and height
  void const* offsets;     // [batch, queries, heads, levels, points, 2]
  void const* logits;      // [batch, queries, heads, levels, points]
  bool float_references, float_offsets, float_logits;
  bool boxes;

  bool alike() const { return !float_references && !float_offsets && !float_logits; }
  bool aligned_fours() const {
    return aligned(offsets) && aligned(logits, 4 * (float_logits ? sizeof(float) : sizeof(T)));
  }
  bool aligned_pairs() const {
    auto pair = [](bool is_float) { return 2 * (is_float ? sizeof(float) : sizeof(T)); };
    return aligned(references, pair(float_references)) && aligned(offsets, pair(float_offsets));
  }
};

template <class T, class Read>
struct MsDeformAttnFusedSource : MsDeformAttnOffsets<T> {
  struct Raw {
    float2 offset, reference, box;
    float logit;
  };
  struct State {
    float largest, sum;  // of the logits; of their exponentials
  };

  __device__ Raw load(MsDeformAttnArguments<T> const& a, MsDeformAttnPlace const& place, int sample) const {
    int64_t const i = place.first + sample;
    int64_t const reference = place.query * a.levels + sample / a.points;
    Raw raw{Read::two(this->offsets, this->float_offsets, i), {}, {}, logit(i)};
    int const pairs = this->boxes ? 2 : 1;
    raw.reference = Read::two(this->references, this->float_references, pairs * reference);
    if (this->boxes) raw.box = Read::two(this->references, this->float_references, 2 * reference + 1);
    return raw;
  }

  __device__ float logit(int64_t i) const { return Read::one(this->logits, this->float_logits, i); }

  // The first logits of a query and a head that a lane of its group reduces. They are read a unit ahead.
  static constexpr int kAhead = 4;
  struct Ahead {
    float logit[kAhead];
  };

  __device__ Ahead ahead(MsDeformAttnArguments<T> const& a, MsDeformAttnPlan const& plan,
                         MsDeformAttnPlace const& place, MsDeformAttnLane const& lane) const {
    Ahead first;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      int const sample = lane.index + i * plan.group;
      first.logit[i] = sample < a.samples() ? logit(place.first + sample) : -INFINITY;
    }
    return first;
  }

  // The logits of a query and a head, among the lanes of its group.
  __device__ State begin(MsDeformAttnArguments<T> const& a, MsDeformAttnPlan const& plan,
                         MsDeformAttnPlace const& place, MsDeformAttnLane const& lane, Ahead const& first) const {
    State state{-INFINITY, 0.f};
    int const rest = lane.index + kAhead * plan.group;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) state.largest = larger(state.largest, first.logit[i]);
    for (int i = rest; i < a.samples(); i += plan.group) state.largest = larger(state.largest, logit(place.first + i));
    for (int distance = 1; distance < plan.group; distance *= 2)
      state.largest = larger(state.largest, __shfl_xor_sync(0xffffffffu, state.largest, distance));
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (lane.index + i * plan.group < a.samples()) state.sum += expf(first.logit[i] - state.largest);
    }
    for (int i = rest; i < a.samples(); i += plan.group) state.sum += expf(logit(place.first + i) - state.largest);
    for (int distance = 1; distance < plan.group; distance *= 2)
      state.sum += __shfl_xor_sync(0xffffffffu, state.sum, distance);
    return state;
  }

  // NaN wins: it must show.
  static __device__ float larger(float a, float b) { return a > b || isnan(a) ? a : b; }

  __device__ float2 pixel(MsDeformAttnArguments<T> const& a, Raw const& raw, MsDeformAttnLevel const& level) const {
    if (this->boxes) {
      return {pixel_of(box_location(raw.reference.x, raw.offset.x, raw.box.x, a.points), level.width),
              pixel_of(box_location(raw.reference.y, raw.offset.y, raw.box.y, a.points), level.height)};
    }
    return {__fadd_rn(pixel_of(raw.reference.x, level.width), raw.offset.x),
            __fadd_rn(pixel_of(raw.reference.y, level.height), raw.offset.y)};
  }

  static __device__ float box_location(float reference, float offset, float box, int points) {
    return __fadd_rn(reference, __fmul_rn(__fmul_rn(__fdiv_rn(offset, points), box), 0.5f));
  }

  __device__ float weight(Raw const& raw, State const& state) const { return expf(raw.logit - state.largest); }
  __device__ float scale(State const& state) const { return 1.f / state.sum; }
};

// Four samples of a level at a time.
template <class T, bool kAlike>
struct MsDeformAttnFusedFours : MsDeformAttnFusedSource<T, PointReader<T, true, kAlike>> {
  using Base = MsDeformAttnFusedSource<T, PointReader<T, true, kAlike>>;
  using Read = std::conditional_t<kAlike, T, float>;
  using State = typename Base::State;
  struct Four {
    Vec<Read, 8> offset;
    Vec<Read, 4> logit;
    Vec<Read, 2> reference, box;
  };
  using Base::larger, Base::pixel, Base::weight;
  static constexpr bool kScales = false;  // the largest weight is 1

  __device__ Four four(MsDeformAttnArguments<T> const& a, MsDeformAttnPlace const& place, int sample, int level) const {
    int64_t const i = place.first + sample, reference = (place.query * a.levels + level) * (this->boxes ? 4 : 2);
    Four four{
        read_once<Read, T, 8>(this->offsets, this->float_offsets, 2 * i), logits_of(i), references_of(reference), {}};
    if (this->boxes) four.box = references_of(reference + 2);
    return four;
  }

  // first: what lane `index` of the (query, head) has read, if there are so many samples.
  __device__ State begin_fours(MsDeformAttnArguments<T> const& a, MsDeformAttnPlace const& place, int index,
                               Four const& first) const {
    constexpr int kFour = 4, kLanes = 4, kRound = kFour * kLanes;
    State state{-INFINITY, 0.f};
    auto each = [&](auto take) {
      if (kFour * index < a.samples()) take(first.logit);
      for (int i = kRound + kFour * index; i < a.samples(); i += kRound) take(logits_of(place.first + i));
    };
    each([&](Vec<Read, 4> const& logits) {
#pragma unroll
      for (int k = 0; k < kFour; ++k) state.largest = larger(state.largest, to_float(logits.lane[k]));
    });
    for (int distance = 1; distance < kLanes; distance *= 2)
      state.largest = larger(state.largest, __shfl_xor_sync(0xffffffffu, state.largest, distance));
    each([&](Vec<Read, 4> const& logits) {
#pragma unroll
      for (int k = 0; k < kFour; ++k) state.sum += expf(to_float(logits.lane[k]) - state.largest);
    });
    for (int distance = 1; distance < kLanes; distance *= 2)
      state.sum += __shfl_xor_sync(0xffffffffu, state.sum, distance);
    return state;
  }

  __device__ float2 pixel(MsDeformAttnArguments<T> const& a, Four const& four, int k,
                          MsDeformAttnTileLevel const& level) const {
    auto of = [](auto const& pair, int first) {
      return float2{to_float(pair.lane[first]), to_float(pair.lane[first + 1])};
    };
    typename Base::Raw const raw{of(four.offset, 2 * k), of(four.reference, 0), of(four.box, 0), 0.f};
    return pixel(a, raw, {level.width, level.height, 0, 0});
  }
  __device__ float weight(Four const& four, int k, State const& state) const {
    return expf(to_float(four.logit.lane[k]) - state.largest);
  }

 private:
  __device__ Vec<Read, 4> logits_of(int64_t i) const {
    return read_once<Read, T, 4>(this->logits, this->float_logits, i);
  }
  __device__ Vec<Read, 2> references_of(int64_t i) const {
    return read_once<Read, T, 2>(this->references, this->float_references, i);
  }
};

template <class T, int N, bool kPacked, bool kAlike>
__global__ void __launch_bounds__(kMsDeformAttnWarps* kWarpSize) ms_deform_attn_fused_kernel(
    MsDeformAttnArguments<T> a, MsDeformAttnPlan plan, MsDeformAttnOffsets<T> offsets) {
  ms_deform_attn_blocks<T, N, kPacked>(a, plan, MsDeformAttnFusedSource<T, PointReader<T, (N > 1), kAlike>>{offsets});
}

template <class T, bool kAlike, bool kEightHeads>
__global__ void __launch_bounds__(MsDeformAttnTilesPlan::kWarps* kWarpSize, 1) ms_deform_attn_fused_tiles_kernel(
    MsDeformAttnArguments<T> a, MsDeformAttnTilesPlan plan, MsDeformAttnOffsets<T> offsets) {
  ms_deform_attn_tiles<T, kEightHeads>(a, plan, MsDeformAttnFusedFours<T, kAlike>{{{offsets}}});
}

template <class T>
cudaError_t launch_ms_deform_attn_fused(MsDeformAttnArguments<T> const& a, MsDeformAttnOffsets<T> const& offsets,
                                        bool packed, int multiprocessors, cudaStream_t stream) {
  constexpr int kLanes = kAccessBytes / sizeof(T);
  if constexpr (sizeof(T) == 2) {
    if (packed && MsDeformAttnTilesPlan::takes(a, offsets, multiprocessors)) {
      auto const kernel = a.heads != 8      ? ms_deform_attn_fused_tiles_kernel<T, false, false>
                          : offsets.alike() ? ms_deform_attn_fused_tiles_kernel<T, true, true>
                                            : ms_deform_attn_fused_tiles_kernel<T, false, true>;
      return launch_ms_deform_attn_tiles(a, offsets, kernel, multiprocessors, stream);
    }
  }
  constexpr bool kPacks = sizeof(T) == 2;
  MsDeformAttnKernels<decltype(&ms_deform_attn_fused_kernel<T, 1, false, false>)> const kernels{
      ms_deform_attn_fused_kernel<T, kLanes, false, false>, ms_deform_attn_fused_kernel<T, kLanes, kPacks, false>,
      ms_deform_attn_fused_kernel<T, kLanes, kPacks, kPacks>, ms_deform_attn_fused_kernel<T, 4, false, false>,
      ms_deform_attn_fused_kernel<T, 1, false, false>};
  return launch_ms_deform_attn(a, offsets, kernels, packed, multiprocessors, stream);
}

}  // namespace bridge
