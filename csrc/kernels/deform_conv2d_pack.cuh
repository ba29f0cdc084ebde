// Lays out the operands of the fused deformable convolution: the feature map channels-last, the weights tile by tile.
#pragma once

#include <type_traits>

#include "deform_conv2d_arguments.cuh"

namespace bridge {

constexpr int kRowBytes = 128;  // of a tile in shared memory: one row for each output position or output channel
constexpr int kRowChunks = kRowBytes / kAccessBytes;

template <class T>
constexpr int kLanes = kAccessBytes / sizeof(T);
template <class T>
constexpr int kDepth = kRowBytes / sizeof(T);  // input channels of a row

// The chunk of 16 bytes in which a tile keeps chunk `chunk` of row `row`: rows that are read together use all banks.
__host__ __device__ inline int swizzled(int row, int chunk) { return chunk ^ (row & 7); }

// The channel at place `k` of a row of weights whose samples are in registers: a thread that gathers 8 channels in a
// row then holds what wgmma wants of it, for two instructions of 16 channels.
__host__ __device__ inline int fragment_channel(int k) {
  return k / 32 * 32 + k % 8 / 2 * 8 + k % 32 / 16 * 4 + k % 16 / 8 * 2 + k % 2;
}

// How a convolution is cut. The sum over channels and taps is cut into stages: one tap of up to kDepth channels that
// share group and offset group; taps vary fastest.
struct DeformConv2dPlan {
  int64_t segment;  // channels in a row that share group and offset group
  int segments;     // of a group
  int chunks;       // of a segment, kDepth channels each, the last one perhaps fewer
  int taps;
  int tile_channels;  // output channels of a tile
  int tiles;          // of a group
  int64_t group_channels, group_out, groups;
  // Of the convolution. Its groups are taken together where they are narrow; weights between two of them are zeros.
  int64_t own_channels, own_out;
  int64_t pixel;  // channels of a packed pixel: every segment is followed by zeros up to a multiple of kDepth
  bool as_it_is;  // the feature map comes packed
  PositionTile positions;
  int tile_positions, offset_groups, segments_per_offset_group;
  int splits, split_stages;  // blocks that share the stages of a tile, and how many stages each of them has
  int parts;                 // tiles that an operand is in: 2 where floats are split
  bool fragments;            // channels of packed weights are in the order of `fragment_channel`

  __host__ __device__ int stages() const { return segments * chunks * taps; }
  __host__ __device__ int64_t blocks(int64_t batch) const { return positions.count(batch) * groups * tiles; }
  __host__ __device__ int64_t tile_size() const { return int64_t(tile_positions) * tile_channels; }
  // Which run of kDepth channels of a packed pixel it is.
  __host__ __device__ int64_t run_of(int group, int segment, int chunk) const {
    return (int64_t(group) * segments + segment) * chunks + chunk;
  }
  // Where the corners of a tile's positions lie for one tap.
  __host__ __device__ int64_t corners_of(int64_t tile, int group, int segment, int tap) const {
    int const offset_group = (group * segments + segment) / segments_per_offset_group;
    return ((tile * offset_groups + offset_group) * taps + tap) * tile_positions;
  }
};

// A sample's corners in one access: the pixel at its top left, counted over all images, which of its four pixels are
// inside the feature map (bits 0 to 3), and their weights. Weights are in the tensors' dtype, and so is the
// interpolation, two channels at a time; in fp32 for float.
template <class T>
struct alignas(16) SampleCorners {
  using Lanes = std::conditional_t<std::is_same_v<T, half>, __half2, __nv_bfloat162>;
  int top_left;
  uint32_t inside;
  Lanes weights[2];

  __device__ void set_weights(float const (&value)[4]) {
    for (int i = 0; i < 2; ++i) weights[i] = Lanes(from_float<T>(value[2 * i]), from_float<T>(value[2 * i + 1]));
  }
  __device__ Lanes weight(int i) const {
    T const one = i % 2 ? weights[i / 2].y : weights[i / 2].x;
    return Lanes(one, one);
  }
};
template <>
struct alignas(16) SampleCorners<float> {
  using Lanes = float;
  int top_left;
  uint32_t inside;
  float weights[4];

  __device__ void set_weights(float const (&value)[4]) {
    for (int i = 0; i < 4; ++i) weights[i] = value[i];
  }
  __device__ float weight(int i) const { return weights[i]; }
};

template <class T>
__device__ SampleCorners<T> sample_corners(DeformConv2dArguments<T> const& a, OutputPosition const& at, int tap,
                                           TapSample<T> const& sample) {
  BilinearCorners const corners = tap_corners(a, at, tap, sample);
  SampleCorners<T> result{};
  float weight[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    bool const inside = at.valid && corners.offset[i] >= 0;
    if (inside) {
      result.inside |= 1u << i;
      result.top_left = static_cast<int>(at.n * a.plane()) + corners.offset[i] - i / 2 * a.width - i % 2;
    }
    weight[i] = isnan(corners.scale) ? corners.scale : corners.scale * corners.weight[i];
  }
  result.set_weights(weight);
  return result;
}

// What a fused kernel reads, and where it writes sums when several blocks share a tile. weight: [group, tile, stage,
// tile_channels rows of kRowBytes], swizzled; corners: [tile of positions, offset group, tap, position]; x: [batch,
// height, width, plan.pixel]; zeros: [kDepth]; sums: [split, tile, channel, position].
template <class T>
struct PackedOperands {
  T* weight;
  SampleCorners<T>* corners;
  T* x;
  T* zeros;
  float* sums;
};

template <class T>
size_t packed_weight_bytes(DeformConv2dPlan const& plan) {
  return size_t(plan.groups) * plan.tiles * plan.stages() * plan.parts * plan.tile_channels * kRowBytes;
}

// Leaves of four floats what TF32 holds of them, toward zero, and returns the rest. Of a number that is not zero the
// rest is not zero either, and has its sign: then an infinite factor of both gives no NaN.
__device__ inline uint4 split_off(uint4& value) {
  uint4 rest;
  auto const split = [](uint32_t& bits, uint32_t& low) {
    float const whole = __uint_as_float(bits);
    bits = isnan(whole) ? 0x7fffe000 : bits & 0xffffe000;
    float const difference = whole - __uint_as_float(bits);
    bool const some = difference != 0.f && !isnan(difference);
    low = some ? __float_as_uint(difference) : whole == 0.f ? 0 : (bits & 0x80000000) | 0x00800000;
  };
  split(value.x, rest.x), split(value.y, rest.y), split(value.z, rest.z), split(value.w, rest.w);
  return rest;
}

// One access of the weights, zero where there is no channel.
template <class T>
__device__ void pack_weight(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* packed, int64_t item) {
  int const chunk = static_cast<int>(item % kRowChunks), row = static_cast<int>(item / kRowChunks % plan.tile_channels);
  int64_t const tiles = item / kRowChunks / plan.tile_channels, block = tiles / plan.parts;
  int const stage = static_cast<int>(block % plan.stages()), tap = stage % plan.taps;
  int64_t const tile = block / plan.stages() % plan.tiles, group = block / plan.stages() / plan.tiles;
  int64_t const segment = stage / plan.taps / plan.chunks;
  int64_t const depth = int64_t(stage / plan.taps % plan.chunks) * kDepth<T>;
  int const first = swizzled(row, chunk) * kLanes<T>;
  int64_t const out = tile * plan.tile_channels + row;
  Vec<T, kLanes<T>> packet;
#pragma unroll
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    int64_t const in_segment = depth + (plan.fragments ? fragment_channel(first + lane) : first + lane);
    int64_t const channel = segment * plan.segment + in_segment;
    bool const valid =
        out < plan.group_out && in_segment < plan.segment && channel / plan.own_channels == out / plan.own_out;
    int64_t const index =
        ((group * plan.group_out + out) * plan.own_channels + channel % plan.own_channels) * plan.taps + tap;
    packet.lane[lane] = valid ? a.weight[index] : from_float<T>(0.f);
  }
  if constexpr (std::is_same_v<T, float>) {
    if (plan.parts == 2) {
      auto& bits = reinterpret_cast<uint4&>(packet);
      uint4 const low = split_off(bits);
      if (tiles % 2) bits = low;
    }
  }
  reinterpret_cast<Vec<T, kLanes<T>>*>(packed)[item] = packet;
}

constexpr int kPackPixels = 128;
constexpr int kPackThreads = 256;

// kPackPixels pixels × kDepth channels of one image, from [channels, height, width] to [height, width, pixel_size]:
// `channels` from `in` on, and zeros after them.
template <class T>
__device__ void pack_pixels(T const* in, T* out, int64_t channels, int64_t plane, int64_t pixel_size, int64_t pixel,
                            bool wide) {
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

// The same from [height, width, channels]: up to kPackPixels pixels, `width` channels of each.
template <class T>
__device__ void pad_pixels(T const* in, T* out, int64_t channels, int64_t pixel_size, int64_t width, int64_t pixels) {
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
  return plan.positions.count(batch) * plan.offset_groups * plan.taps * plan.tile_positions;
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
  auto const blocks = static_cast<unsigned>(ceil_divide(items, kPackThreads));
  deform_conv2d_pack_weight_kernel<<<blocks, kPackThreads, 0, stream>>>(a, plan, packed, items);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_deform_conv2d_pack(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                      PackedOperands<T> const& packed, cudaStream_t stream) {
  auto blocks_of = [](int64_t items) { return static_cast<unsigned>(ceil_divide(items, kPackThreads)); };
  int64_t const weight_items = a.packed_weight ? 0 : packed_weight_bytes<T>(plan) / kAccessBytes;
  int64_t const corner_items = packed_corners<T>(plan, a.batch);
  int64_t const runs = plan.as_it_is ? 0 : plan.pixel / kDepth<T>;
  int64_t const pixel_blocks = a.batch * ceil_divide(a.plane(), kPackPixels) * runs;
  PackBlocks const blocks{blocks_of(weight_items), blocks_of(corner_items), static_cast<unsigned>(pixel_blocks)};
  bool const wide = aligned(a.x) && a.plane() % kLanes<T> == 0;
  deform_conv2d_pack_kernel<T><<<blocks.weight + blocks.corners + blocks.pixels, kPackThreads, 0, stream>>>(
      a, plan, packed, blocks, weight_items, corner_items, wide);
  return cudaGetLastError();
}

}  // namespace bridge
