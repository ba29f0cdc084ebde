// The maps of units: see deform_conv2d_units.cuh.
#pragma once

#include "kernels/deformable/deform_conv2d_pack.cuh"

namespace bridge {

constexpr unsigned kMapsTogether = 4;  // that a thread packs a pixel of

// Pixels of a map that a warp packs: where a pixel comes with the one to its right, the last lane reads it for another.
__host__ __device__ constexpr unsigned unit_pixels_of_warp(int units) { return units == 16 ? 31 : 32; }
__host__ __device__ constexpr unsigned unit_pixels_of_block(int units) {
  return kPackThreads / 32 * unit_pixels_of_warp(units);
}

// As __shfl_down_sync by one lane, of any values that fill words.
template <class Packet>
__device__ Packet from_next_lane(Packet const& packet) {
  Packet next;
#pragma unroll
  for (size_t i = 0; i < sizeof(Packet) / sizeof(uint32_t); ++i)
    reinterpret_cast<uint32_t*>(&next)[i] = __shfl_down_sync(~0u, reinterpret_cast<uint32_t const*>(&packet)[i], 1);
  return next;
}

// One pixel of some maps of image n: kChannels channels each, zeros where the segment has fewer and in the border. By
// whole warps, whose lanes have pixels in a row; stores: whether this lane's is to be written.
template <class T, int kChannels>
__device__ void pack_unit_pixel(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* maps, unsigned n,
                                unsigned first_run, unsigned pixel, bool stores) {
  unsigned const in_row = pixel / plan.unit.pitch, runs = static_cast<unsigned>(plan.runs());
  int const row = static_cast<int>(in_row) - kMapBefore;
  int const column = static_cast<int>(pixel - in_row * plan.unit.pitch) - kMapBefore;
  bool const inside = row >= 0 && row < a.height && column >= 0 && column < a.width;
  int64_t const plane = a.plane(), at = int64_t(row) * a.width + column, apart = a.channels_last ? 1 : plane;
  T const* const x = a.x + n * a.channels * plane + (a.channels_last ? at * a.channels : at);
  using Own = Vec<T, kChannels>;
  struct alignas(kAccessBytes) Packet {
    Own pixel[unit_pixel_bytes(kDepth<T> / kChannels) / sizeof(Own)];  // perhaps with the one to its right
  };
  auto* to = reinterpret_cast<Packet*>(maps) + (int64_t(n) * runs + first_run) * plan.unit.map_pixels() + pixel;
  constexpr unsigned kAhead = sizeof(T) == 2 ? kMapsTogether : 1;  // that are on their way before the first is stored
#pragma unroll
  for (unsigned done = 0; done < kMapsTogether; done += kAhead) {
    Packet packet[kAhead];
#pragma unroll
    for (unsigned i = 0; i < kAhead; ++i) {
      unsigned const run = first_run + done + i, segment = run / plan.chunks;
      unsigned const in_segment = run % plan.chunks * kChannels;
      T const* const from = x + (segment * plan.segment + in_segment) * apart;
      int const filled = inside && run < runs ? static_cast<int>(plan.segment - in_segment) : 0;
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel)
        packet[i].pixel[0].lane[channel] = channel < filled ? from[channel * apart] : from_float<T>(0.f);
    }
#pragma unroll
    for (unsigned i = 0; i < kAhead; ++i, to += plan.unit.map_pixels()) {
      if constexpr (sizeof(Packet) > sizeof(Own)) packet[i].pixel[1] = from_next_lane(packet[i].pixel[0]);
      if (stores && first_run + done + i < runs) *to = packet[i];
    }
  }
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

// Blocks of the three parts of a launch, in this order.
struct UnitBlocks {
  unsigned weights, terms, maps;
};

template <class T, int kChannels>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_pack_units_kernel(DeformConv2dArguments<T> a,
                                                                                DeformConv2dPlan plan,
                                                                                PackedOperands<T> packed,
                                                                                UnitBlocks blocks,
                                                                                unsigned weight_threads) {
  let_next_kernel_begin();
  unsigned block = blockIdx.x;
  if (block == 0 && threadIdx.x < kDepth<T>) packed.zeros[kDepth<T> + threadIdx.x] = from_float<T>(1.f);
  if (block < blocks.weights) {
    unsigned const thread = block * kPackThreads + threadIdx.x;
    if (thread < weight_threads) pack_weight(a, plan, packed.weight, thread);
    return;
  }
  block -= blocks.weights;
  if (block < blocks.terms) {
    int64_t const item = int64_t(block) * kPackThreads + threadIdx.x;
    if (item < plan.table()) packed.terms[item] = unit_term(a, plan, item);
    return;
  }
  block -= blocks.terms;
  constexpr int kUnits = kDepth<T> / kChannels;
  constexpr unsigned kOfWarp = unit_pixels_of_warp(kUnits), kOfBlock = unit_pixels_of_block(kUnits);
  auto const pixels = static_cast<unsigned>(plan.unit.map_pixels());
  unsigned const in_map = (pixels + kOfBlock - 1) / kOfBlock, maps = block / in_map;
  unsigned const of_image = (static_cast<unsigned>(plan.runs()) + kMapsTogether - 1) / kMapsTogether;
  unsigned const lane = threadIdx.x % 32, n = maps / of_image;
  unsigned const pixel = (block - maps * in_map) * kOfBlock + threadIdx.x / 32 * kOfWarp + lane;
  pack_unit_pixel<T, kChannels>(a, plan, packed.x, n, (maps - n * of_image) * kMapsTogether, pixel,
                                lane < kOfWarp && pixel < pixels);
}

template <class T>
cudaError_t launch_deform_conv2d_pack_units(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                            PackedOperands<T> const& packed, cudaStream_t stream) {
  auto const cut = [](int64_t items) { return ceil_divide(items, kPackThreads); };
  int64_t const threads = a.packed_weight ? 0 : weight_threads<T>(plan);
  int64_t const weights = cut(threads), terms = cut(plan.table());
  int64_t const blocks_of_map = ceil_divide(plan.unit.map_pixels(), unit_pixels_of_block(plan.units));
  int64_t const maps = (Size(a.batch) * ceil_divide(plan.runs(), kMapsTogether) * blocks_of_map).value();
  int64_t const all = (Size(weights) + terms + maps).value();
  if (all > kMaxGridX || threads > kMaxWeightThreads) return cudaErrorInvalidValue;
  UnitBlocks const blocks{static_cast<unsigned>(weights), static_cast<unsigned>(terms), static_cast<unsigned>(maps)};
  return for_units<T>(plan.units, [&](auto units) {
    deform_conv2d_pack_units_kernel<T, kDepth<T> / units><<<static_cast<unsigned>(all), kPackThreads, 0, stream>>>(
        a, plan, packed, blocks, static_cast<unsigned>(threads));
    return cudaGetLastError();
  });
}

}  // namespace bridge
