// The fused deformable convolution for compute capability 9.0 with samples in registers: each thread of two warpgroups
// gathers the samples that wgmma wants of it, so that they never pass through shared memory, which holds the weights
// alone. A thread asks for the next corners when it has given the tensor cores what it gathered last. A warpgroup that
// gathers for two that multiply, by way of shared memory, was tried: it took 1.2 to 2 times as long on an H200.
#pragma once

#include "kernels/deform_registers/results.cuh"
#include "kernels/deform_registers/tile.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// Which corners come next: runs of channels that share them read the same ones, tap by tap.
template <class Tile>
struct LocatedRuns {
  int runs, run, tap;  // that share corners; the next ones' corners follow theirs

  __device__ LocatedRuns(DeformConv2dPlan const& plan, int group, DeformConv2dStage const& first)
      : runs(plan.segments_per_offset_group * plan.chunks),
        run((group * plan.segments + first.segment) % plan.segments_per_offset_group * plan.chunks + first.chunk),
        tap(first.tap) {}

  template <class Place>
  __device__ void advance(DeformConv2dPlan const& plan, Place& corners) {
    if (++tap < plan.taps) return;
    tap = 0;
    if (++run < runs) {
      corners -= plan.taps * Tile::kPositions;
    } else {
      run = 0;
    }
  }
};

// One thread copies the weights of each stage.
template <class Tile>
__device__ void produce_weights(char const* weights,  // [stages, kStageBytes]
                                StageRange const& range, RegisterShared<Tile>& shared) {
  constexpr uint32_t kBytes = Tile::kStageBytes;
  weights += int64_t(range.first) * kBytes;
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    shared.full[slot].arrive_and_expect(kBytes);
    copy_bulk(shared.weights[slot], weights + int64_t(i) * kBytes, kBytes, shared.full[slot]);
  }
}

// The same, and the corners of each next stage with them.
template <class T, class Tile>
__device__ void produce_weights_and_corners(DeformConv2dPlan const& plan, PackedOperands<T> const& packed, int group,
                                            RegisterShared<Tile>& shared) {
  constexpr uint32_t kBytes = Tile::kStageBytes;
  StageRange const range(plan);
  uint32_t const first_stage = blockIdx.y * plan.stages() + range.first;
  DeformConv2dStage const first(plan, range.first);
  auto corners = static_cast<uint32_t>(plan.corners_of(blockIdx.x, group, first.segment, first.tap));
  LocatedRuns<Tile> located(plan, group, first);
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    bool const more = i + 1 < range.count;
    corners += Tile::kPositions;
    located.advance(plan, corners);
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    shared.full[slot].arrive_and_expect(kBytes + (more ? Tile::kCornerBytes : 0));
    auto const* weights = reinterpret_cast<char const*>(packed.weight) + uint64_t(first_stage + i) * kBytes;
    copy_bulk(shared.weights[slot], weights, kBytes, shared.full[slot]);
    if (more) copy_bulk(shared.corners[slot], packed.corners + corners, Tile::kCornerBytes, shared.full[slot]);
  }
}

// By the helpers, each of which arrives at `biased`: what is wanted once the sums are there.
template <class T, class Tile>
__device__ void load_bias(DeformConv2dArguments<T> const& a, int64_t first, int64_t end, RegisterShared<Tile>& shared) {
  if (threadIdx.x == Tile::kFirstHelper) shared.out_first = first, shared.out_end = end;
  for (int i = threadIdx.x - Tile::kFirstHelper; i < Tile::kChannels; i += Tile::kHelpers)
    shared.bias[i] = a.bias && first + i < end ? to_float(a.bias[first + i]) : 0.f;
  shared.biased.arrive();
}

template <class T, class Tile>
__device__ void multiply_gathered(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                  PackedOperands<T> const& packed, int group, RegisterShared<Tile>& shared,
                                  RegisterProduct<T, Tile>& product) {
  StageRange const range(plan);
  int const stages = range.count;
  DeformConv2dStage const first(plan, range.first);
  int64_t const first_run = plan.run_of(group, first.segment, first.chunk);
  RegisterRows<T, Tile> rows(ChunkSource(a, plan, packed, first_run, RegisterRows<T, Tile>::chunk()));
  rows.corners = packed.corners + plan.corners_of(blockIdx.x, group, first.segment, first.tap) + rows.row();
  LocatedRuns<Tile> located(plan, group, first);
  int gathered_tap = first.tap;
  auto locate = [&] {
    rows.locate();
    located.advance(plan, rows.corners);
  };

  locate();
  rows.load();
  for (int i = 0; i < stages; ++i) {
    int const slot = i % Tile::kStages;
    bool const more = i + 1 < stages;
    if (more) locate();
    rows.sample();  // while the tensor cores work
    product.finish();
    if (i > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[(i - 1) % Tile::kStages].arrive();
    uint32_t fragment[Tile::kParts][4][4];
    rows.arrange(fragment);
    shared.full[slot].wait(i / Tile::kStages % 2);
    product.start(fragment, matrix_descriptor(shared_address(shared.weights[slot])));
    if (more) {
      if (++gathered_tap == plan.taps) gathered_tap = 0, rows.source.x += kRowBytes;
      rows.load();
    }
  }
  product.finish();
}

// The same with corners that come with weights. A thread asks for the next samples before it begins with a product.
template <class T, class Tile>
__device__ void multiply_gathered_ahead(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                        PackedOperands<T> const& packed, int group, RegisterShared<Tile>& shared,
                                        RegisterProduct<T, Tile>& product) {
  StageRange const range(plan);
  DeformConv2dStage const first(plan, range.first);
  int64_t const first_run = plan.run_of(group, first.segment, first.chunk);
  RegisterRows<T, Tile> rows(ChunkSource(a, plan, packed, first_run, RegisterRows<T, Tile>::chunk()));
  rows.locate(packed.corners + plan.corners_of(blockIdx.x, group, first.segment, first.tap) + rows.row());
  rows.load();
  int gathered_tap = first.tap;
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    shared.full[slot].wait(i / Tile::kStages % 2);
    product.finish();
    if (i > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[(i - 1) % Tile::kStages].arrive();
    rows.sample();
    uint32_t fragment[Tile::kParts][4][4];
    rows.arrange(fragment);
    if (i + 1 < range.count) {
      if (++gathered_tap == plan.taps) gathered_tap = 0, rows.source.x += kRowBytes;
      rows.locate(reinterpret_cast<SampleCorners<T> const*>(shared.corners[slot]) + rows.row());
      rows.load();
    }
#pragma unroll
    for (auto& step : fragment[0]) hold_registers(step);  // else the compiler arranges some between products
    product.start(fragment, matrix_descriptor(shared_address(shared.weights[slot])));
  }
  product.finish();
}

// By one thread, before all others use them.
template <class Tile>
__device__ void init_barriers(RegisterShared<Tile>& shared) {
  for (int i = 0; i < Tile::kStages; ++i) {
    shared.full[i].init(1);
    shared.empty[i].init(2);
  }
  shared.biased.init(Tile::kHelpers);
  publish_to_wgmma();
}

// The third warpgroup: one thread copies weights, and three warps the bias.
template <class T, class Tile>
__device__ void produce(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                        PackedOperands<T> const& packed, int group, int tile, RegisterShared<Tile>& shared) {
  if (threadIdx.x == Tile::kConsumers && Tile::kCornersAhead) {
    produce_weights_and_corners(plan, packed, group, shared);
  } else if (threadIdx.x == Tile::kConsumers) {
    int64_t const first = int64_t(blockIdx.y) * plan.stages() * Tile::kStageBytes;
    produce_weights<Tile>(reinterpret_cast<char const*>(packed.weight) + first, StageRange(plan), shared);
  } else if (threadIdx.x >= Tile::kFirstHelper) {
    load_bias(a, group * plan.group_out + int64_t(tile) * Tile::kChannels, (group + 1) * plan.group_out, shared);
  }
}

// By the multiplying warpgroups: as write_sums.
template <class T, class Tile>
__device__ void write_product(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                              PackedOperands<T> const& packed, RegisterProduct<T, Tile> const& product,
                              RegisterShared<Tile>& shared, unsigned char* memory, int wide) {
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto each = [&](auto visit) {  // as in WarpProduct
#pragma unroll
    for (int i = 0; i < Tile::kChannels / 2; ++i)
      visit(16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, product.sum[i]);
  };
  if (plan.splits > 1) {
    float* const sums = partial_sums(packed, Tile::kPositions * Tile::kChannels);
    return store_partial_sums<Tile::kPositions, Tile::kChannels>(sums, a.y_channels_last, each);
  }
  shared.biased.wait(0);
  synchronize_some(1, Tile::kConsumers);  // weights are no longer read
  auto& result = *reinterpret_cast<typename Tile::Result*>(memory);
  if constexpr (sizeof(T) == 2) {
    store_distant_results(a, result, 16 * warp, product.sum, shared.bias);
  } else {
    store_results(a, result, each,
                  [&](int channel, float sum) { return from_float<T>(a.activation(sum + shared.bias[channel])); });
  }
  synchronize_some(1, Tile::kConsumers);
  write_results<T, Tile::kConsumers>(a, plan.positions, shared.out_first, shared.out_end, result, wide);
}

#endif  // BRIDGE_WGMMA

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) deform_conv2d_register_kernel(DeformConv2dArguments<T> a,
                                                                                   DeformConv2dPlan plan,
                                                                                   PackedOperands<T> packed, int wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<RegisterShared<Tile>*>(memory);
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  let_next_kernel_begin();
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  wait_for_kernel_before();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    produce(a, plan, packed, group, tile, shared);
    return;
  }
  set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
  RegisterProduct<T, Tile> product;
  if constexpr (Tile::kCornersAhead) {
    multiply_gathered_ahead(a, plan, packed, group, shared, product);
  } else {
    multiply_gathered(a, plan, packed, group, shared, product);
  }
  write_product(a, plan, packed, product, shared, memory, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
