// Deformable convolution v1 and v2 (Zhu et al., https://arxiv.org/abs/1811.11168) in one pass: a block gathers bilinear
// samples of a tile of positions into shared memory and multiplies them with the weights of many output channels there.
// No column buffer. The feature map is channels-last, so that a corner of a sample is one run of memory.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "kernels/deformable/deform_conv2d_pack.cuh"
#include "kernels/deformable/deform_conv2d_product.cuh"
#include "kernels/deformable/deform_conv2d_results.cuh"

namespace bridge {

template <class T, class Product>
struct DeformConv2dShared {
  static constexpr int kPositions = Product::kPositions, kChannels = Product::kChannels;
  // Of two stages each: [parts, positions, depth] and [parts, channels, depth].
  alignas(1024) unsigned char samples[2][Product::kParts * kPositions * kRowBytes];
  alignas(1024) unsigned char weights[2][Product::kParts * kChannels * kRowBytes];
};

// Which stage comes next, without divisions.
struct DeformConv2dStage {
  int tap = 0, chunk = 0, segment = 0;

  DeformConv2dStage() = default;
  __device__ DeformConv2dStage(DeformConv2dPlan const& plan, int stage)
      : tap(stage % plan.taps), chunk(stage / plan.taps % plan.chunks), segment(stage / plan.taps / plan.chunks) {}

  __device__ void advance(DeformConv2dPlan const& plan) {
    if (++tap < plan.taps) return;
    tap = 0;
    if (++chunk < plan.chunks) return;
    chunk = 0, ++segment;
  }
};

// Where this thread's chunk of a stage's channels lies in each pixel.
struct ChunkSource {
  char const* x;      // [batch, height, width, pixel_bytes], from the chunk on
  char const* zeros;  // [kRowBytes], likewise
  int pixel_bytes, row_bytes;

  template <class T>
  __device__ ChunkSource(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                         PackedOperands<T> const& packed, int64_t run, int chunk)
      : x(reinterpret_cast<char const*>(packed.x) + run * kRowBytes + chunk * kAccessBytes),
        zeros(reinterpret_cast<char const*>(packed.zeros) + chunk * kAccessBytes),
        pixel_bytes(static_cast<int>(plan.pixel * sizeof(T))),
        row_bytes(pixel_bytes * a.width) {}

  // Of the four pixels around a sample.
  template <class T>
  __device__ char const* corner(SampleCorners<T> const& at, int j) const {
    char const* const pixel =
        x + int64_t(at.top_left) * pixel_bytes + (j / 2 ? row_bytes : 0) + (j % 2 ? pixel_bytes : 0);
    return at.inside >> j & 1 ? pixel : zeros;
  }
};

// Asks for kLanes channels of the four pixels around a sample.
template <class T>
__device__ void load_corners(uint4 (&corner)[4], ChunkSource const& source, SampleCorners<T> const& at) {
#pragma unroll
  for (int j = 0; j < 4; ++j) corner[j] = __ldg(reinterpret_cast<uint4 const*>(source.corner(at, j)));
}

template <class T, bool kRounds>
__device__ uint4 interpolate(uint4 const (&corner)[4], SampleCorners<T> const& at) {
  using Lanes = typename SampleCorners<T>::Lanes;
  constexpr int kWords = kAccessBytes / sizeof(Lanes);
  Vec<Lanes, kWords> result;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    auto const value = [&](int j) { return reinterpret_cast<Lanes const*>(&corner[j])[word]; };
    Lanes sum = at.weight(0) * value(0);
#pragma unroll
    for (int j = 1; j < 4; ++j) sum = multiply_add_lanes(at.weight(j), value(j), sum);
    if constexpr (kRounds) sum = round_to_tf32(sum);
    result.lane[word] = sum;
  }
  return *reinterpret_cast<uint4 const*>(&result);
}

// kLanes channels of one position on their way: `load` asks for the corners, `sample` interpolates between them.
template <class T>
struct Gathered {
  uint4 corner[4];
  SampleCorners<T> at;

  __device__ void load(ChunkSource const& source, SampleCorners<T> const& corners) {
    at = corners;
    load_corners(corner, source, at);
  }
  template <bool kRounds>
  __device__ uint4 sample() const {
    return interpolate<T, kRounds>(corner, at);
  }
};

// A thread's part of a stage's samples: its chunk of every kRowStep-th position.
template <class T, class Product>
struct GatheredRows {
  static constexpr int kRowStep = Product::kThreads / kRowChunks, kRows = Product::kPositions / kRowStep;
  Gathered<T> row[kRows];
  SampleCorners<T> upcoming[kRows];

  __device__ void locate(SampleCorners<T> const* corners) {  // [kPositions]
#pragma unroll
    for (int i = 0; i < kRows; ++i) upcoming[i] = corners[threadIdx.x / kRowChunks + i * kRowStep];
  }

  // The corners that were located last.
  __device__ void load(ChunkSource const& source) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i].load(source, upcoming[i]);
  }

  __device__ void store(unsigned char* tile) const {  // [kParts, kPositions, kRowBytes]
    int const first = threadIdx.x / kRowChunks, chunk = swizzled(first, threadIdx.x % kRowChunks);
    static_assert(kRowStep % 8 == 0, "rows of a thread share their swizzle");
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      auto* const out = reinterpret_cast<uint4*>(tile + (first + i * kRowStep) * kRowBytes + chunk * kAccessBytes);
      uint4 sample = row[i].template sample<Product::kRounds>();
      if constexpr (Product::kParts == 2) out[Product::kPositions * kRowChunks] = split_off(sample);
      *out = sample;
    }
  }
};

template <class Product>
__device__ void copy_weights(void const* packed,     // [kParts, kChannels, kRowBytes]
                             unsigned char* tile) {  // [kParts, kChannels, kRowBytes]
  constexpr int kItems = Product::kParts * Product::kChannels * kRowBytes / kAccessBytes;
  uint32_t const shared = shared_address(tile);
#pragma unroll
  for (int item = threadIdx.x; item < kItems; item += Product::kThreads)
    copy_async(shared + item * kAccessBytes, static_cast<char const*>(packed) + item * kAccessBytes);
}

// The stages of this block.
struct StageRange {
  int first, count;

  __device__ explicit StageRange(DeformConv2dPlan const& plan)
      : first(static_cast<int>(blockIdx.z) * plan.split_stages), count(min(plan.split_stages, plan.stages() - first)) {}
};

// Gathers the samples and copies the weights of each of the block's stages while the one before is multiplied.
template <class T, class Product>
__device__ void multiply_stages(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                PackedOperands<T> const& packed, int group, DeformConv2dShared<T, Product>& shared,
                                Product& product) {
  StageRange const range(plan);
  int const stages = range.count;
  constexpr int64_t kTileBytes = Product::kParts * Product::kChannels * kRowBytes;
  auto const* const weights =
      reinterpret_cast<char const*>(packed.weight) + (int64_t(blockIdx.y) * plan.stages() + range.first) * kTileBytes;

  GatheredRows<T, Product> rows;
  DeformConv2dStage gathered(plan, range.first), located(plan, range.first);  // the next ones
  auto locate = [&] {
    rows.locate(packed.corners + plan.corners_of(blockIdx.x, group, located.segment, located.tap));
    located.advance(plan);
  };
  auto load = [&] {
    rows.load(
        ChunkSource(a, plan, packed, plan.run_of(group, gathered.segment, gathered.chunk), threadIdx.x % kRowChunks));
    gathered.advance(plan);
  };

  copy_weights<Product>(weights, shared.weights[0]);
  locate();
  load();
  if (stages > 1) locate();
  rows.store(shared.samples[0]);
  for (int stage = 0; stage < stages; ++stage) {
    int const now = stage % 2, next = 1 - now;
    wait_for_copies();
    __syncthreads();
    bool const more = stage + 1 < stages;
    if (more) {
      copy_weights<Product>(weights + (stage + 1) * kTileBytes, shared.weights[next]);
      load();
      if (stage + 2 < stages) locate();
    }
    product.add(shared_address(shared.samples[now]), shared_address(shared.weights[now]));
    if (more) rows.store(shared.samples[next]);
  }
}

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class T, class Product>
__global__ void __launch_bounds__(Product::kThreads) deform_conv2d_tile_kernel(DeformConv2dArguments<T> a,
                                                                               DeformConv2dPlan plan,
                                                                               PackedOperands<T> packed, int wide) {
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<DeformConv2dShared<T, Product>*>(memory);
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  Product product;
  multiply_stages(a, plan, packed, group, shared, product);
  write_sums(a, plan, packed, group, tile, product, memory, wide);
}

}  // namespace bridge
