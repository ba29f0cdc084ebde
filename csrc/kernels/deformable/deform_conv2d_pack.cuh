// Lays out the operands of the fused deformable convolution: the feature map channels-last, the weights tile by tile.
#pragma once

#include "kernels/common/tensor_core.cuh"
#include "kernels/deformable/deform_conv2d_plan.cuh"

namespace bridge {

// Which access of the packed weights is the index-th that threads write: taps, which lie together in the weights as
// they come, fall to neighbours.
__device__ inline int64_t weight_item(DeformConv2dPlan const& plan, int64_t index) {
  if (plan.units > 1) return index;  // a unit's neighbours are taps already
  int64_t const tap = index % plan.taps, rest = index / plan.taps;
  int64_t const stage = int64_t(plan.parts) * plan.tile_channels * kRowChunks;
  return (rest / stage * plan.taps + tap) * stage + rest % stage;
}

// One access of the weights, zero where there is no channel.
template <class T>
__device__ void pack_weight(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                            T* packed,  // PackedOperands::weight
                            int64_t index) {
  int64_t const item = weight_item(plan, index);
  int const chunk = static_cast<int>(item % kRowChunks), row = static_cast<int>(item / kRowChunks % plan.tile_channels);
  int64_t const tiles = item / kRowChunks / plan.tile_channels, block = tiles / plan.parts;
  int const stage = static_cast<int>(block % plan.stages());
  int64_t const tile = block / plan.stages() % plan.tiles, group = block / plan.stages() / plan.tiles;
  int const first = swizzled(row, chunk) * kLanes<T>;
  int64_t const out = tile * plan.tile_channels + row;
  Vec<T, kLanes<T>> packet;
#pragma unroll
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    WeightPlace const at = weight_place<T>(plan, stage, first + lane);
    int const tap = at.term % plan.taps, run = at.term / plan.taps;
    int64_t const in_segment = int64_t(run % plan.chunks) * (kDepth<T> / plan.units) + at.channel;
    int64_t const channel = int64_t(run / plan.chunks) * plan.segment + in_segment;
    bool const valid = at.term < plan.terms() && out < plan.group_out && in_segment < plan.segment &&
                       channel / plan.own_channels == out / plan.own_out;
    int64_t const index =
        ((group * plan.group_out + out) * plan.own_channels + channel % plan.own_channels) * plan.taps + tap;
    packet.lane[lane] = valid ? a.weight[index] : from_float<T>(0.f);
  }
  if constexpr (std::is_same_v<T, float>) {
    if (plan.parts == 2) {
#pragma unroll
      for (float& value : packet.lane) value = isnan(value) ? nanf("") : value;
      auto& bits = reinterpret_cast<uint4&>(packet);
      uint4 const low = split_off(bits);
      if (tiles % 2) bits = low;
    } else {
#pragma unroll
      for (float& value : packet.lane) value = round_to_tf32(value);
    }
  }
  reinterpret_cast<Vec<T, kLanes<T>>*>(packed)[item] = packet;
}

constexpr int kPackPixels = 128;
constexpr int kPackThreads = 256;

// kPackPixels pixels × kDepth channels of one image: `channels` of them, and zeros after them.
template <class T>
__device__ void pack_pixels(T const* in,  // [channels, plane]
                            T* out,       // [plane, pixel_size], of which kDepth are written
                            int64_t channels, int64_t plane, int64_t pixel_size, int64_t pixel, bool wide) {
  constexpr int kWords = kRowBytes / 4, kPerWord = 4 / sizeof(T), kVectors = kPackPixels / kLanes<T>;
  __shared__ uint32_t tile[kPackPixels][kWords + 1];
  using Packet = Vec<T, kLanes<T>>;
#pragma unroll
  for (int unit = threadIdx.x; unit < kVectors * kWords; unit += kPackThreads) {
    int const vector = unit % kVectors, word = unit / kVectors;
    int64_t const at = pixel + vector * kLanes<T>;
    Packet read[kPerWord];
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) {
      int64_t const c = word * kPerWord + i;
      T const* source = in + c * plane + at;
      if (wide && c < channels && at < plane) {
        read[i] = *reinterpret_cast<Packet const*>(source);
      } else {
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane)
          read[i].lane[lane] = c < channels && at + lane < plane ? source[lane] : from_float<T>(0.f);
      }
    }
#pragma unroll
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      Vec<T, kPerWord> pair;
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) pair.lane[i] = read[i].lane[lane];
      tile[vector * kLanes<T> + lane][word] = *reinterpret_cast<uint32_t*>(&pair);
    }
  }
  __syncthreads();
  for (int unit = threadIdx.x; unit < kPackPixels * kRowChunks; unit += kPackThreads) {
    int const row = unit / kRowChunks, chunk = unit % kRowChunks;
    if (pixel + row >= plane) continue;
    uint32_t const* words = &tile[row][chunk * 4];
    *reinterpret_cast<uint4*>(out + (pixel + row) * pixel_size + chunk * kLanes<T>) = {words[0], words[1], words[2],
                                                                                       words[3]};
  }
}

// The same from channels-last pixels: up to kPackPixels of them, `width` channels of each.
template <class T>
__device__ void pad_pixels(T const* in,  // [pixels, channels]
                           T* out,       // [pixels, pixel_size], of which kDepth are written
                           int64_t channels, int64_t pixel_size, int64_t width, int64_t pixels) {
  for (int unit = threadIdx.x; unit < kPackPixels * kDepth<T>; unit += kPackThreads) {
    int const row = unit / kDepth<T>, c = unit % kDepth<T>;
    if (row < pixels) out[row * pixel_size + c] = c < width ? in[row * channels + c] : from_float<T>(0.f);
  }
}

// Blocks of the three parts of a launch: those of weights first, the others mixed.
struct PackBlocks {
  unsigned weight, corners, pixels;

  // How many of the first `count` blocks after those of weights are blocks of corners.
  __device__ unsigned corners_before(unsigned count) const {
    return static_cast<unsigned>(uint64_t(count) * corners / (corners + pixels));
  }
};

template <class T>
__device__ void pack_corners(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, SampleCorners<T>* corners,
                             unsigned item) {
  unsigned const position = item % plan.tile_positions, row = item / plan.tile_positions, tile = row / plan.taps;
  int const tap = row % plan.taps, offset_group = tile % a.offset_groups;
  OutputPosition const at =
      tile_position(a, plan.positions, plan.tile_positions, tile / a.offset_groups, static_cast<int>(position));
  corners[item] = sample_corners(a, at, tap, load_tap(a, at, tap, offset_group));
}

template <class T>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_pack_kernel(DeformConv2dArguments<T> a,
                                                                          DeformConv2dPlan plan,
                                                                          PackedOperands<T> packed, PackBlocks blocks,
                                                                          int64_t weight_items, int64_t corner_items,
                                                                          bool wide) {
  unsigned block = blockIdx.x;
  if (block == 0) {
    if (threadIdx.x < kDepth<T>) packed.zeros[threadIdx.x] = from_float<T>(0.f);
  }
  if (block < blocks.weight) {
    int64_t const item = int64_t(block) * kPackThreads + threadIdx.x;
    if (item < weight_items) pack_weight(a, plan, packed.weight, item);
    return;
  }
  block -= blocks.weight;
  unsigned const corners_before = blocks.corners_before(block);
  if (blocks.corners_before(block + 1) > corners_before) {
    unsigned const item = corners_before * kPackThreads + threadIdx.x;
    if (item < corner_items) pack_corners(a, plan, packed.corners, item);
    return;
  }
  block -= corners_before;
  int64_t const plane = a.plane(), pixel_blocks = (plane + kPackPixels - 1) / kPackPixels;
  int64_t const runs = plan.pixel / kDepth<T>;
  int64_t const image = block / (pixel_blocks * runs), rest = block % (pixel_blocks * runs), run = rest / pixel_blocks;
  int64_t const in_segment = run % plan.chunks * kDepth<T>, channel = run / plan.chunks * plan.segment + in_segment;
  if (a.channels_last) {
    int64_t const pixel = image * plane + rest % pixel_blocks * kPackPixels;
    pad_pixels(a.x + pixel * a.channels + channel, packed.x + pixel * plan.pixel + run * kDepth<T>, a.channels,
               plan.pixel, plan.segment - in_segment, (image + 1) * plane - pixel);
    return;
  }
  pack_pixels(a.x + (image * a.channels + channel) * plane, packed.x + image * plane * plan.pixel + run * kDepth<T>,
              plan.segment - in_segment, plane, plan.pixel, rest % pixel_blocks * kPackPixels, wide);
}

template <class T>
int64_t packed_corners(DeformConv2dPlan const& plan, int64_t batch) {
  return (Size(plan.positions.count(batch)) * plan.offset_groups * plan.taps * plan.tile_positions).value();
}

template <class T>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_pack_weight_kernel(DeformConv2dArguments<T> a,
                                                                                 DeformConv2dPlan plan, T* packed,
                                                                                 int64_t items) {
  int64_t const item = int64_t(blockIdx.x) * kPackThreads + threadIdx.x;
  if (item < items) pack_weight(a, plan, packed, item);
}

// The weights alone.
template <class T>
cudaError_t launch_deform_conv2d_pack_weight(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* packed,
                                             cudaStream_t stream) {
  auto const items = static_cast<int64_t>(packed_weight_bytes<T>(plan) / kAccessBytes);
  if (ceil_divide(items, kPackThreads) > kMaxGridX) return cudaErrorInvalidValue;
  auto const blocks = static_cast<unsigned>(ceil_divide(items, kPackThreads));
  deform_conv2d_pack_weight_kernel<<<blocks, kPackThreads, 0, stream>>>(a, plan, packed, items);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_deform_conv2d_pack(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                      PackedOperands<T> const& packed, cudaStream_t stream) {
  int64_t const weight_items = a.packed_weight ? 0 : packed_weight_bytes<T>(plan) / kAccessBytes;
  int64_t const corner_items = packed_corners<T>(plan, a.batch);
  int64_t const runs = plan.as_it_is ? 0 : plan.pixel / kDepth<T>;
  int64_t const weight_blocks = ceil_divide(weight_items, kPackThreads);
  int64_t const corner_blocks = ceil_divide(corner_items, kPackThreads);
  int64_t const pixel_blocks = (Size(a.batch) * ceil_divide(a.plane(), kPackPixels) * runs).value();
  if (Size(weight_blocks) + corner_blocks + pixel_blocks > kMaxGridX) return cudaErrorInvalidValue;
  PackBlocks const blocks{static_cast<unsigned>(weight_blocks), static_cast<unsigned>(corner_blocks),
                          static_cast<unsigned>(pixel_blocks)};
  bool const wide = aligned(a.x) && a.plane() % kLanes<T> == 0;
  deform_conv2d_pack_kernel<T><<<blocks.weight + blocks.corners + blocks.pixels, kPackThreads, 0, stream>>>(
      a, plan, packed, blocks, weight_items, corner_items, wide);
  return cudaGetLastError();
}

}  // namespace bridge
