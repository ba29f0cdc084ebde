// Lays out the operands of the fused deformable convolution: the feature map channels-last, the weights tile by tile.
#pragma once

#include <algorithm>

#include "kernels/common/tensor_core.cuh"
#include "kernels/deformable/deform_conv2d_plan.cuh"

namespace bridge {

// Where a thread finds an access of the weights: which of its lanes there are, and where their tap 0 is.
template <class T>
struct WeightLanes {
  uint32_t at[kLanes<T>];  // from the output channel's first
  uint32_t exist = 0;

  // first: the place of lane 0 in a row of weights; out: in its group.
  __device__ WeightLanes(DeformConv2dPlan const& plan, int stage, int first, uint32_t out) {
    uint32_t const own = static_cast<uint32_t>(plan.own_channels), group_of_out = out / uint32_t(plan.own_out);
#pragma unroll
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      WeightPlace const place = weight_place<T>(plan, stage, first + lane);
      uint32_t const run = uint32_t(place.term) / plan.taps, segment = run / plan.chunks;
      uint32_t const in_segment = (run - segment * plan.chunks) * (kDepth<T> / plan.units) + place.channel;
      uint32_t const channel = segment * uint32_t(plan.segment) + in_segment;
      uint32_t const before = group_of_out * own;  // channels of groups that are taken together with its own
      bool const exists = place.term < plan.terms() && out < plan.group_out && in_segment < plan.segment &&
                          channel >= before && channel - before < own;
      exist |= uint32_t(exists) << lane;
      at[lane] = (channel - before) * plan.taps + uint32_t(place.term) - run * plan.taps;
    }
  }
  __device__ Vec<T, kLanes<T>> read(T const* of_out) const {
    Vec<T, kLanes<T>> packet;
#pragma unroll
    for (int lane = 0; lane < kLanes<T>; ++lane)
      packet.lane[lane] = exist >> lane & 1 ? of_out[at[lane]] : from_float<T>(0.f);
    return packet;
  }
};

// As tensor cores take it. part: of a float that is split.
template <class T>
__device__ void round_weights(Vec<T, kLanes<T>>& packet, bool split, uint32_t part) {
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (float& value : packet.lane) value = !split ? round_to_tf32(value) : isnan(value) ? nanf("") : value;
    if (!split) return;
    auto& bits = reinterpret_cast<uint4&>(packet);
    uint4 const low = split_off(bits);
    if (part == 1) bits = low;
  }
}

// Accesses that a thread packs, one below the other in the packed weights' stages: one for each tap, which lie side by
// side in the weights as they come. Where stages hold several units, taps are side by side in a stage: one.
__host__ __device__ inline int accesses_together(DeformConv2dPlan const& plan) {
  return plan.units == 1 ? plan.taps : 1;
}
template <class T>
int64_t weight_threads(DeformConv2dPlan const& plan) {
  return static_cast<int64_t>(packed_weight_bytes<T>(plan) / kAccessBytes) / accesses_together(plan);
}

template <class T>
__device__ void pack_weight(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                            T* packed,  // PackedOperands::weight
                            uint32_t thread) {
  int const together = accesses_together(plan);
  uint32_t const row_chunks = uint32_t(plan.tile_channels) * kRowChunks, in_tile = thread % row_chunks;
  int const row = static_cast<int>(in_tile / kRowChunks), chunk = static_cast<int>(in_tile % kRowChunks);
  uint32_t const part_of_stages = thread / row_chunks, parts = plan.parts, runs = plan.stages() / together;
  uint32_t const part = part_of_stages % parts, stages = part_of_stages / parts;
  uint32_t const tiles = stages / runs, stage = stages % runs * together;
  uint32_t const group = tiles / plan.tiles, tile = tiles % plan.tiles, out = tile * plan.tile_channels + row;
  WeightLanes<T> const lanes(plan, static_cast<int>(stage), swizzled(row, chunk) * kLanes<T>, out);
  T const* from = a.weight + (group * plan.group_out + out) * plan.own_channels * plan.taps;
  auto* to = reinterpret_cast<Vec<T, kLanes<T>>*>(packed) +
             ((int64_t(tiles) * plan.stages() + stage) * parts + part) * row_chunks + in_tile;
#pragma unroll 3
  for (int i = 0; i < together; ++i) {
    Vec<T, kLanes<T>> packet = lanes.read(from + i);
    round_weights(packet, parts == 2, part);
    to[int64_t(i) * parts * row_chunks] = packet;
  }
}

constexpr int kPackPixels = 128;
constexpr int kPackThreads = 256;
constexpr int64_t kMaxWeightThreads = (int64_t(1) << 32) - kPackThreads;  // their indices have 32 bits

// kPackPixels pixels × kDepth channels of one image: `channels` of them, and zeros after them.
template <class T>
__device__ void pack_pixels(T const* in,  // [channels, plane]
                            T* out,       // [plane, pixel_size], of which kDepth are written
                            int64_t channels, int64_t plane, int64_t pixel_size, int64_t pixel, bool wide) {
  constexpr int kWords = kRowBytes / 4, kPerWord = 4 / sizeof(T), kVectors = kPackPixels / kLanes<T>;
  __shared__ alignas(kAccessBytes) uint32_t tile[kPackPixels][kWords];
  // Words of a row change places, so that a warp writes to all banks, and reads 16 bytes that belong together.
  auto const moved = [](int vector) { return vector * (kWords / kVectors); };
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
      tile[vector * kLanes<T> + lane][word ^ moved(vector)] = *reinterpret_cast<uint32_t*>(&pair);
    }
  }
  __syncthreads();
  for (int unit = threadIdx.x; unit < kPackPixels * kRowChunks; unit += kPackThreads) {
    int const row = unit / kRowChunks, chunk = unit % kRowChunks;
    if (pixel + row >= plane) continue;
    int const move = moved(row / kLanes<T>);
    uint4 const read = *reinterpret_cast<uint4 const*>(&tile[row][(chunk * 4) ^ (move & ~3)]);
    uint4 const pairs = move & 1 ? uint4{read.y, read.x, read.w, read.z} : read;
    *reinterpret_cast<uint4*>(out + (pixel + row) * pixel_size + chunk * kLanes<T>) =
        move & 2 ? uint4{pairs.z, pairs.w, pairs.x, pairs.y} : pairs;
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
  uint64_t share;  // of corners in what comes after weights, in 2^-32, rounded up: all of them are all of them

  PackBlocks(int64_t weight, int64_t corners, int64_t pixels)
      : weight(static_cast<unsigned>(weight)),
        corners(static_cast<unsigned>(corners)),
        pixels(static_cast<unsigned>(pixels)),
        share(ceil_divide(corners << 32, std::max<int64_t>(corners + pixels, 1))) {}

  // How many of the first `count` blocks after those of weights are blocks of corners.
  __device__ unsigned corners_before(unsigned count) const { return static_cast<unsigned>(count * share >> 32); }
};

// Taps of a thread that locates corners, whose offsets are on their way at once. Of 16-bit types: others have not been
// measured.
template <class T>
constexpr int kTapsTogether = sizeof(T) == 2 ? 3 : 1;
template <class T>
constexpr int kPackBlocks = sizeof(T) == 2 ? 5 : 0;  // that a multiprocessor holds at least

template <class T>
int64_t packed_corners(DeformConv2dPlan const& plan, int64_t batch) {
  return (Size(plan.positions.count(batch)) * plan.offset_groups * plan.taps * plan.tile_positions).value();
}
template <class T>
__host__ __device__ int parts_of_taps(DeformConv2dPlan const& plan) {
  return (plan.taps + kTapsTogether<T> - 1) / kTapsTogether<T>;
}

template <class T>
__device__ void pack_corners(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, SampleCorners<T>* corners,
                             unsigned item) {
  constexpr int kTogether = kTapsTogether<T>;
  unsigned const position = item % plan.tile_positions, row = item / plan.tile_positions,
                 parts = parts_of_taps<T>(plan);
  unsigned const tile = row / parts;
  int const first = static_cast<int>(row - tile * parts) * kTogether, offset_group = tile % a.offset_groups;
  OutputPosition const at =
      tile_position(a, plan.positions, plan.tile_positions, tile / a.offset_groups, static_cast<int>(position));
  TapSample<T> samples[kTogether];
#pragma unroll
  for (int i = 0; i < kTogether; ++i) samples[i] = load_tap(a, at, min(first + i, plan.taps - 1), offset_group);
  corners += (tile * plan.taps + first) * plan.tile_positions + position;
#pragma unroll
  for (int i = 0; i < kTogether; ++i)
    if (first + i < plan.taps) corners[i * plan.tile_positions] = sample_corners(a, at, first + i, samples[i]);
}

template <class T>
__global__ void __launch_bounds__(kPackThreads, kPackBlocks<T>) deform_conv2d_pack_kernel(
    DeformConv2dArguments<T> a, DeformConv2dPlan plan, PackedOperands<T> packed, PackBlocks blocks,
    unsigned weight_threads, int64_t corner_items, bool wide) {
  let_next_kernel_begin();
  unsigned block = blockIdx.x;
  if (block == 0) {
    if (threadIdx.x < kDepth<T>) packed.zeros[threadIdx.x] = from_float<T>(0.f);
  }
  if (block < blocks.weight) {
    unsigned const thread = block * kPackThreads + threadIdx.x;
    if (thread < weight_threads) pack_weight(a, plan, packed.weight, thread);
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
  auto const plane = static_cast<unsigned>(a.plane()), pixel_blocks = (plane + kPackPixels - 1) / kPackPixels;
  unsigned const runs = static_cast<unsigned>(plan.pixel) / kDepth<T>, image_run = block / pixel_blocks;
  unsigned const first_pixel = (block - image_run * pixel_blocks) * kPackPixels;
  unsigned const image = image_run / runs, run = image_run - image * runs, segment = run / plan.chunks;
  int64_t const in_segment = (run - segment * plan.chunks) * kDepth<T>;
  int64_t const channel = segment * plan.segment + in_segment;
  if (a.channels_last) {
    int64_t const pixel = int64_t(image) * plane + first_pixel;
    pad_pixels(a.x + pixel * a.channels + channel, packed.x + pixel * plan.pixel + run * kDepth<T>, a.channels,
               plan.pixel, plan.segment - in_segment, plane - first_pixel);
    return;
  }
  pack_pixels(a.x + (image * a.channels + channel) * plane, packed.x + image * plane * plan.pixel + run * kDepth<T>,
              plan.segment - in_segment, plane, plan.pixel, first_pixel, wide);
}

template <class T>
__global__ void __launch_bounds__(kPackThreads) deform_conv2d_pack_weight_kernel(DeformConv2dArguments<T> a,
                                                                                 DeformConv2dPlan plan, T* packed,
                                                                                 unsigned threads) {
  unsigned const thread = blockIdx.x * kPackThreads + threadIdx.x;
  if (thread < threads) pack_weight(a, plan, packed, thread);
}

// The weights alone.
template <class T>
cudaError_t launch_deform_conv2d_pack_weight(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* packed,
                                             cudaStream_t stream) {
  int64_t const threads = weight_threads<T>(plan);
  if (threads > kMaxWeightThreads) return cudaErrorInvalidValue;
  auto const blocks = static_cast<unsigned>(ceil_divide(threads, kPackThreads));
  deform_conv2d_pack_weight_kernel<<<blocks, kPackThreads, 0, stream>>>(a, plan, packed, unsigned(threads));
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_deform_conv2d_pack(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                      PackedOperands<T> const& packed, cudaStream_t stream) {
  int64_t const weights = a.packed_weight ? 0 : weight_threads<T>(plan);
  int64_t const corner_items = packed_corners<T>(plan, a.batch) / plan.taps * parts_of_taps<T>(plan);
  int64_t const runs = plan.as_it_is ? 0 : plan.pixel / kDepth<T>;
  int64_t const weight_blocks = ceil_divide(weights, kPackThreads);
  int64_t const corner_blocks = ceil_divide(corner_items, kPackThreads);
  int64_t const pixel_blocks = (Size(a.batch) * ceil_divide(a.plane(), kPackPixels) * runs).value();
  if (weights > kMaxWeightThreads || Size(weight_blocks) + corner_blocks + pixel_blocks > kMaxGridX)
    return cudaErrorInvalidValue;
  PackBlocks const blocks(weight_blocks, corner_blocks, pixel_blocks);
  bool const wide = aligned(a.x) && a.plane() % kLanes<T> == 0;
  deform_conv2d_pack_kernel<T><<<blocks.weight + blocks.corners + blocks.pixels, kPackThreads, 0, stream>>>(
      a, plan, packed, blocks, static_cast<unsigned>(weights), corner_items, wide);
  return cudaGetLastError();
}

}  // namespace bridge
