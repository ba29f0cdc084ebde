// Deformable convolution with narrow offset groups: gathers of deform_conv2d_units.cuh, and the products of what each
// warp gathered with weights in shared memory. Samples never pass through shared memory, and warps share weights alone.
#pragma once

#include "kernels/deform_registers/results.cuh"
#include "kernels/deform_registers/tile.cuh"
#include "kernels/deformable/deform_conv2d_units.cuh"

namespace bridge {

// kChannels: output channels of a tile. kParts: as in SplitProduct. kResidents: blocks that fit a multiprocessor.
// kShares: of a tile's stages, one for each kUnitThreads threads.
template <class T_, int kUnits_, int kChannels_, int kParts_ = 1, bool kLogits_ = false, int kShares_ = 1>
struct UnitTile {
  using T = T_;
  static constexpr bool kLogits = kLogits_;
  static constexpr bool kRounds = std::is_same_v<T, float> && kParts_ == 1;
  static constexpr int kUnits = kUnits_, kChannels = kChannels_, kParts = kParts_, kShares = kShares_;
  static constexpr int kPositions = kUnitPositions, kThreads = kUnitThreads * kShares;
  static constexpr int kResidents = kChannels == 64 && kParts == 1 && kShares == 1 ? 2 : 1;
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

  // Only of 16 bits by wgmma: floats took longer on an H200, and other GPUs have not been measured.
  static constexpr bool kSpread = false, kRests = false;

  static __device__ int share() { return 0; }

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

// By wgmma: two warpgroups of 64 positions each, for each share. One of their threads has weights copied some stages
// ahead.
template <class Tile>
struct UnitsByWarpgroup : Tile {
  using T = typename Tile::T;
  using Fragment = uint32_t[Tile::kParts][4][4];
  static constexpr int kWarps = kUnitThreads / 32, kStages = 3, kSums = Tile::kChannels / 2;
  static constexpr bool kSpread = sizeof(T) == 2, kRests = kSpread && Tile::kChannels == 64;
  struct Slots {  // of a share's weights
    alignas(1024) unsigned char weights[kStages][Tile::kStageBytes];
    SharedBarrier full[kStages], empty[kStages];
  };
  struct Shared {
    Slots slots[Tile::kShares];
  };

#ifdef BRIDGE_WGMMA
  Slots& slots;
  char const* weights;
  int stages;
  RegisterProduct<T, Tile> product;

  // weights, stages: of this thread's share.
  __device__ UnitsByWarpgroup(Shared& shared, char const* weights, int stages)
      : slots(shared.slots[share()]), weights(weights), stages(stages) {
    if (leads()) {
      for (int i = 0; i < kStages; ++i) slots.full[i].init(1), slots.empty[i].init(kWarps);
      publish_to_wgmma();
    }
    __syncthreads();
    if (leads()) {
      for (int i = 0; i < min(kStages, stages); ++i) copy(i);
    }
    __syncwarp();
  }

  static __device__ int share() { return Tile::kShares == 1 ? 0 : threadIdx.x / kUnitThreads; }
  static __device__ bool leads() { return threadIdx.x % kUnitThreads == 0; }

  __device__ void copy(int stage) {
    auto& full = slots.full[stage % kStages];
    full.arrive_and_expect(Tile::kStageBytes);
    copy_bulk(slots.weights[stage % kStages], weights + int64_t(stage) * Tile::kStageBytes, Tile::kStageBytes, full);
  }

  // Waits for the products of the stage before, so that fragments may change. The slot of one stage earlier is empty or
  // soon will be: it gets its next weights.
  __device__ void finish(int stage) {
    product.finish();
    if (stage == 0) return;
    if (threadIdx.x % 32 == 0) slots.empty[(stage - 1) % kStages].arrive();
    int const emptied = stage - 2, wanted = emptied + kStages;
    if (leads() && emptied >= 0 && wanted < stages) {
      slots.empty[emptied % kStages].wait(emptied / kStages % 2);
      copy(wanted);
    }
    __syncwarp();
  }

  __device__ void multiply(Fragment const& fragment, int stage) {
    slots.full[stage % kStages].wait(stage / kStages % 2);
    product.start(fragment, matrix_descriptor(shared_address(slots.weights[stage % kStages])));
  }

  // Adds the sums of all shares to the first one's, by way of shared memory.
  __device__ void add_shares(unsigned char* memory) {
    auto* const sums = reinterpret_cast<float*>(memory) + threadIdx.x % kUnitThreads;
    static_assert((Tile::kShares - 1) * kSums * kUnitThreads * sizeof(float) <= sizeof(Shared));
    hold_registers(product.sum);
    __syncthreads();
    if (share() > 0) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[((share() - 1) * kSums + i) * kUnitThreads] = product.sum[i];
    }
    __syncthreads();
    if (share() > 0) return;
#pragma unroll
    for (int i = 0; i < (Tile::kShares - 1) * kSums; ++i) product.sum[i % kSums] += sums[i * kUnitThreads];
  }

  template <class Visit>
  __device__ void each(Visit visit) const {
    if (share() == 0) each_unit_sum(product.sum, visit);
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

// The stages of a thread's share, counted from the block's first.
template <class Product>
struct ShareRange {
  int first, count;

  __device__ explicit ShareRange(StageRange const& range) {
    int const each = (range.count + Product::kShares - 1) / Product::kShares;
    first = min(Product::share() * each, range.count), count = min(each, range.count - first);
  }
};

template <class Product, class Rows>
__device__ void multiply_rows(Product& product, Rows& rows, int stages) {
  uint32_t fragment[Product::kParts][4][4] = {};
  bool const wanted = !Product::kRests || rows.wanted;
  if (wanted && (Product::kShares == 1 || stages > 0)) {
    rows.template load<0>();
    rows.template load<1>();
  }
  for (int stage = 0; stage < stages; ++stage) {
    bool const more = stage + 1 < stages;
    product.finish(stage);
    if (wanted) {
      rows.template interpolate<0>(fragment);
      rows.template load<2>();
      rows.template interpolate<1>(fragment);
      rows.template load<3>();
      rows.template interpolate<2>(fragment);
      if (more) rows.template load<0>();
      rows.template interpolate<3>(fragment);
    }
    product.multiply(fragment, stage);
    if (wanted && more) rows.template load<1>();
  }
  product.finish(stages);
}

template <class Product>
__device__ void multiply_units(DeformConv2dArguments<typename Product::T> const& a, DeformConv2dPlan const& plan,
                               PackedOperands<typename Product::T> const& packed, unsigned char* memory, int wide) {
  using T = typename Product::T;
  let_next_kernel_begin();
  wait_for_kernel_before();
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  StageRange const range(plan);
  ShareRange<Product> const own(range);
  int64_t const first = (int64_t(blockIdx.y) * plan.stages() + range.first + own.first) * Product::kStageBytes;
  auto& shared = *reinterpret_cast<UnitShared<Product>*>(memory);
  Product product(shared.weights, reinterpret_cast<char const*>(packed.weight) + first, own.count);
  UnitTerm const* const terms = packed.terms + (int64_t(group) * plan.stages() + range.first) * Product::kUnits;
  using Rows = UnitRows<T, Product::kUnits, Product::kRounds, Product::kLogits, Product::kSpread>;
  Rows rows(a, plan, packed, unit_terms(terms, range.count, shared) + own.first * Product::kUnits);
  multiply_rows(product, rows, own.count);
  if constexpr (Product::kShares > 1) product.add_shares(memory);
  if constexpr (Product::kSpread) {
    write_close_sums(a, plan, packed, group, tile, product, memory, wide);
  } else {
    write_sums(a, plan, packed, group, tile, product, memory, wide);
  }
}

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kResidents) deform_conv2d_warp_units_kernel(
    DeformConv2dArguments<typename Product::T> a, DeformConv2dPlan plan, PackedOperands<typename Product::T> packed,
    int wide) {
  extern __shared__ __align__(1024) unsigned char memory[];
  multiply_units<Product>(a, plan, packed, memory, wide);
}
template <class Product>
__global__ void __launch_bounds__(Product::kThreads, Product::kResidents) deform_conv2d_warpgroup_units_kernel(
    DeformConv2dArguments<typename Product::T> a, DeformConv2dPlan plan, PackedOperands<typename Product::T> packed,
    int wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  multiply_units<Product>(a, plan, packed, memory, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
