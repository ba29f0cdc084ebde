// Deformable convolution with narrow offset groups: gathers of deform_conv2d_units.cuh, and the products of what each
// warp gathered with weights in shared memory. Samples never pass through shared memory, and warps share weights alone.
#pragma once

#include "kernels/deformable/deform_conv2d_registers_tile.cuh"
#include "kernels/deformable/deform_conv2d_units.cuh"

namespace bridge {

// kChannels: output channels of a tile. kParts: as in SplitProduct. kResidents: blocks that fit a multiprocessor.
template <class T_, int kUnits_, int kChannels_, int kParts_ = 1, bool kLogits_ = false>
struct UnitTile {
  using T = T_;
  static constexpr bool kLogits = kLogits_;
  static constexpr bool kRounds = std::is_same_v<T, float> && kParts_ == 1;
  static constexpr int kPositions = kUnitPositions, kThreads = kUnitThreads;
  static constexpr int kUnits = kUnits_, kChannels = kChannels_, kParts = kParts_;
  static constexpr int kResidents = kChannels == 64 && kParts == 1 ? 2 : 1;
  static constexpr int kStageBytes = kParts * kChannels * kRowBytes;

  static __device__ void synchronize() { __syncthreads(); }
};

// Calls visit(position, channel, value) for each of a thread's sums, as mma and wgmma have them: sum[i].
template <int kSums, class Visit>
__device__ void each_unit_sum(float const (&sum)[kSums], Visit visit) {
  int const lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4 * 2;
#pragma unroll
  for (int i = 0; i < kSums; ++i) visit(first + i / 2 % 2, i / 4 * 8 + lane % 4 * 2 + i % 2, sum[i]);
}

// By mma.sync: each warp multiplies its 16 positions. Weights of the next stage come while this one is multiplied.
template <class Tile>
struct UnitsByWarp : Tile {
  using T = typename Tile::T;
  using Fragment = uint32_t[Tile::kParts][4][4];
  static constexpr int kSums = Tile::kChannels / 2;
  struct Shared {
    alignas(1024) unsigned char weights[2][Tile::kStageBytes];
  };

  Shared& shared;
  char const* weights;
  int stages;
  float sum[kSums] = {};

  __device__ UnitsByWarp(Shared& shared, char const* weights, int stages)
      : shared(shared), weights(weights), stages(stages) {
    copy_weights<Tile>(weights, shared.weights[0]);
  }

  __device__ void finish(int) {}

  __device__ void multiply(Fragment const& fragment, int stage) {
    wait_for_copies();
    __syncthreads();
    if (stage + 1 < stages)
      copy_weights<Tile>(weights + int64_t(stage + 1) * Tile::kStageBytes, shared.weights[(stage + 1) % 2]);
    uint32_t const tile = shared_address(shared.weights[stage % 2]);
    int const lane = threadIdx.x % 32, row = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < Tile::kChannels / 16; ++j) {
      float part[2][4] = {};  // of a stage, where floats are split: see SplitProduct
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t right[Tile::kParts][4];
#pragma unroll
        for (int i = 0; i < Tile::kParts; ++i)
          load_matrices(right[i], tile + (i * Tile::kChannels + row + 16 * j) * kRowBytes +
                                      swizzled(row, 2 * step + lane / 8 % 2) * kAccessBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (Tile::kParts == 2) {
            multiply_add<T>(part[half], fragment[1][step], right[0][2 * half], right[0][2 * half + 1]);
            multiply_add<T>(part[half], fragment[0][step], right[1][2 * half], right[1][2 * half + 1]);
            multiply_add<T>(part[half], fragment[0][step], right[0][2 * half], right[0][2 * half + 1]);
          } else {
            auto& into = reinterpret_cast<float (&)[4]>(sum[4 * (2 * j + half)]);
            multiply_add<T>(into, fragment[0][step], right[0][2 * half], right[0][2 * half + 1]);
          }
        }
      }
      if constexpr (Tile::kParts == 2) {
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[8 * j + i] += part[i / 4][i % 4];
      }
    }
  }

  template <class Visit>
  __device__ void each(Visit visit) const {
    each_unit_sum(sum, visit);
  }
};

// By wgmma: two warpgroups of 64 positions each. One thread has weights copied some stages ahead.
template <class Tile>
struct UnitsByWarpgroup : Tile {
  using T = typename Tile::T;
  using Fragment = uint32_t[Tile::kParts][4][4];
  static constexpr int kWarps = Tile::kThreads / 32, kStages = 3;
  struct Shared {
    alignas(1024) unsigned char weights[kStages][Tile::kStageBytes];
    SharedBarrier full[kStages], empty[kStages];
  };

#ifdef BRIDGE_WGMMA
  Shared& shared;
  char const* weights;
  int stages;
  RegisterProduct<T, Tile> product;

  __device__ UnitsByWarpgroup(Shared& shared, char const* weights, int stages)
      : shared(shared), weights(weights), stages(stages) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) shared.full[i].init(1), shared.empty[i].init(kWarps);
      publish_to_wgmma();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < min(kStages, stages); ++i) copy(i);
    }
    __syncwarp();
  }

  __device__ void copy(int stage) {
    auto& full = shared.full[stage % kStages];
    full.arrive_and_expect(Tile::kStageBytes);
    copy_bulk(shared.weights[stage % kStages], weights + int64_t(stage) * Tile::kStageBytes, Tile::kStageBytes, full);
  }

  // Waits for the products of the stage before, so that fragments may change. The slot of one stage earlier is empty or
  // soon will be: it gets its next weights.
  __device__ void finish(int stage) {
    product.finish();
    if (stage == 0) return;
    if (threadIdx.x % 32 == 0) shared.empty[(stage - 1) % kStages].arrive();
    int const emptied = stage - 2, wanted = emptied + kStages;
    if (threadIdx.x == 0 && emptied >= 0 && wanted < stages) {
      shared.empty[emptied % kStages].wait(emptied / kStages % 2);
      copy(wanted);
    }
    __syncwarp();
  }

  __device__ void multiply(Fragment const& fragment, int stage) {
    shared.full[stage % kStages].wait(stage / kStages % 2);
    product.start(fragment, matrix_descriptor(shared_address(shared.weights[stage % kStages])));
  }

  template <class Visit>
  __device__ void each(Visit visit) const {
    each_unit_sum(product.sum, visit);
  }
#endif
};

constexpr int kSharedTerms = 320;  // with fewer, all terms of a block lie in shared memory

template <class Product>
struct UnitShared {
  typename Product::Shared weights;
  UnitTerm terms[kSharedTerms];
};

// The terms of a block's stages and of one more, in shared memory where they fit.
template <class Product>
__device__ UnitTerm const* unit_terms(UnitTerm const* terms, int stages, UnitShared<Product>& shared) {
  int const count = (stages + 1) * Product::kUnits;
  if (count > kSharedTerms) return terms;
  for (int i = threadIdx.x; i < count; i += Product::kThreads) shared.terms[i] = terms[i];
  Product::synchronize();
  return shared.terms;
}

template <class Product>
__device__ void multiply_units(DeformConv2dArguments<typename Product::T> const& a, DeformConv2dPlan const& plan,
                               PackedOperands<typename Product::T> const& packed, unsigned char* memory, bool wide) {
  using T = typename Product::T;
  let_next_kernel_begin();
  wait_for_kernel_before();
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  StageRange const range(plan);
  int64_t const first = (int64_t(blockIdx.y) * plan.stages() + range.first) * Product::kStageBytes;
  auto& shared = *reinterpret_cast<UnitShared<Product>*>(memory);
  Product product(shared.weights, reinterpret_cast<char const*>(packed.weight) + first, range.count);
  UnitTerm const* const terms = packed.terms + (int64_t(group) * plan.stages() + range.first) * Product::kUnits;
  using Rows = UnitRows<T, Product::kUnits, Product::kRounds, Product::kLogits>;
  Rows rows(a, plan, packed, unit_terms(terms, range.count, shared));
  uint32_t fragment[Product::kParts][4][4];
  rows.template load<0>();
  rows.template load<1>();
  for (int stage = 0; stage < range.count; ++stage) {
    bool const more = stage + 1 < range.count;
    product.finish(stage);
    rows.template interpolate<0>(fragment);
    rows.template load<2>();
    rows.template interpolate<1>(fragment);
    rows.template load<3>();
    rows.template interpolate<2>(fragment);
    if (more) rows.template load<0>();
    rows.template interpolate<3>(fragment);
    product.multiply(fragment, stage);
    if (more) rows.template load<1>();
  }
  product.finish(range.count);
  write_sums(a, plan, packed, group, tile, product, memory, wide);
}

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kResidents) deform_conv2d_warp_units_kernel(
    DeformConv2dArguments<typename Product::T> a, DeformConv2dPlan plan, PackedOperands<typename Product::T> packed,
    bool wide) {
  extern __shared__ __align__(1024) unsigned char memory[];
  multiply_units<Product>(a, plan, packed, memory, wide);
}
template <class Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kResidents) deform_conv2d_warpgroup_units_kernel(
    DeformConv2dArguments<typename Product::T> a, DeformConv2dPlan plan, PackedOperands<typename Product::T> packed,
    bool wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  multiply_units<Product>(a, plan, packed, memory, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
