// The maps of units: see deform_conv2d_units.cuh.
#pragma once

#include "kernels/deformable/deform_conv2d_pack.cuh"

namespace bridge {

// One pixel of a map: kChannels channels, zeros where the segment has fewer and in the border.
template <class T, int kChannels>
__device__ void pack_unit_pixel(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* maps,
                                int64_t map,  // of [batch, runs]
                                int64_t pixel) {
  int64_t const runs = plan.groups * plan.segments * plan.chunks, n = map / runs, run = map % runs;
  int64_t const in_segment = run % plan.chunks * kChannels, channel = run / plan.chunks * plan.segment + in_segment;
  int const row = static_cast<int>(pixel / plan.unit.pitch) - kMapBefore;
  int const column = static_cast<int>(pixel % plan.unit.pitch) - kMapBefore;
  bool const inside = row >= 0 && row < a.height && column >= 0 && column < a.width;
  int64_t const plane = a.plane(), at = int64_t(row) * a.width + column, apart = a.channels_last ? 1 : plane;
  T const* const x =
      a.x + n * a.channels * plane + (a.channels_last ? at * a.channels + channel : channel * plane + at);
  Vec<T, kChannels> packet;
#pragma unroll
  for (int i = 0; i < kChannels; ++i)
    packet.lane[i] = inside && in_segment + i < plan.segment ? x[i * apart] : from_float<T>(0.f);
  reinterpret_cast<Vec<T, kChannels>*>(maps)[map * plan.unit.map_pixels() + pixel] = packet;
}

template <class T>
__device__ UnitTerm unit_term(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, int64_t item) {
  int64_t const of_group = int64_t(plan.stages()) * plan.units, group = item / of_group, term = item % of_group;
  constexpr float kOutside = 1e30f;
  if (group == plan.groups || term >= plan.terms()) return {0, kOutside, 0.f, 0};
  int const tap = static_cast<int>(term % plan.taps);
  int64_t const run = group * plan.segments * plan.chunks + term / plan.taps;
  int64_t const offset_group = run / plan.chunks / plan.segments_per_offset_group;
  return {static_cast<uint32_t>(offset_group * plan.taps + tap), float(tap / a.kernel_w * a.dilation_h),
          float(tap % a.kernel_w * a.dilation_w), static_cast<uint32_t>(run)};
}

__device__ inline int64_t weight_items(DeformConv2dPlan const& plan) {
  return plan.groups * plan.tiles * plan.stages() * plan.parts * plan.tile_channels * kRowChunks;
}

// Blocks of the three parts of a launch, in this order.
struct UnitBlocks {
  unsigned weights, terms, maps;
};

template <class T, int kChannels>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_pack_units_kernel(DeformConv2dArguments<T> a,
                                                                                DeformConv2dPlan plan,
                                                                                PackedOperands<T> packed,
                                                                                UnitBlocks blocks) {
  unsigned block = blockIdx.x;
  if (block == 0 && threadIdx.x < kDepth<T>) packed.zeros[kDepth<T> + threadIdx.x] = from_float<T>(1.f);
  if (block < blocks.weights) {
    int64_t const item = int64_t(block) * kPackThreads + threadIdx.x;
    if (item < weight_items(plan)) pack_weight(a, plan, packed.weight, item);
    return;
  }
  block -= blocks.weights;
  if (block < blocks.terms) {
    int64_t const item = int64_t(block) * kPackThreads + threadIdx.x;
    if (item < plan.table()) packed.terms[item] = unit_term(a, plan, item);
    return;
  }
  block -= blocks.terms;
  int64_t const pixels = plan.unit.map_pixels(), in_map = (pixels + kPackThreads - 1) / kPackThreads;
  int64_t const pixel = block % in_map * kPackThreads + threadIdx.x;
  if (pixel < pixels) pack_unit_pixel<T, kChannels>(a, plan, packed.x, block / in_map, pixel);
}

template <class T>
cudaError_t launch_deform_conv2d_pack_units(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                            PackedOperands<T> const& packed, cudaStream_t stream) {
  auto const cut = [](int64_t items) { return ceil_divide(items, kPackThreads); };
  int64_t const weights = a.packed_weight ? 0 : cut(packed_weight_bytes<T>(plan) / kAccessBytes);
  int64_t const terms = cut(plan.table());
  int64_t const maps = (Size(a.batch) * plan.runs() * cut(plan.unit.map_pixels())).value();
  int64_t const all = (Size(weights) + terms + maps).value();
  if (all > kMaxGridX) return cudaErrorInvalidValue;
  UnitBlocks const blocks{static_cast<unsigned>(weights), static_cast<unsigned>(terms), static_cast<unsigned>(maps)};
  return for_units<T>(plan.units, [&](auto units) {
    deform_conv2d_pack_units_kernel<T, kDepth<T> / units>
        <<<static_cast<unsigned>(all), kPackThreads, 0, stream>>>(a, plan, packed, blocks);
    return cudaGetLastError();
  });
}

}  // namespace bridge
