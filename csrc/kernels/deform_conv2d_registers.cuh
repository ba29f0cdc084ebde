// The fused deformable convolution for compute capability 9.0 with samples in registers: each thread of two warpgroups
// gathers the samples that wgmma wants of it, so that they never pass through shared memory, which holds the weights
// alone. A thread asks for the next corners when it has given the tensor cores what it gathered last.
#pragma once

#include "deform_conv2d_fused.cuh"

namespace bridge {

constexpr int kWarpgroup = 128;  // threads

// kChannels: output channels of a tile. Positions are 128, 64 for each multiplying warpgroup.
template <int kChannels_>
struct RegisterTile {
  static constexpr int kPositions = 128, kChannels = kChannels_;
  static constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup;
  static constexpr int kStages = kChannels == 256 ? 3 : 4;
  static constexpr int kFirstHelper = kConsumers + 32, kHelpers = kThreads - kFirstHelper;
  static constexpr int kConsumerRegisters = 240, kProducerRegisters = 24, kLaunchRegisters = 168;
};

template <class Tile>
struct RegisterShared {
  alignas(1024) unsigned char weights[Tile::kStages][Tile::kChannels * kRowBytes];
  SharedBarrier full[Tile::kStages], empty[Tile::kStages], biased;
  float bias[Tile::kChannels];
};

#ifdef BRIDGE_WGMMA

// One thread copies the weights of each stage.
template <class Tile>
__device__ void produce_weights(char const* weights, StageRange const& range, RegisterShared<Tile>& shared) {
  constexpr uint32_t kBytes = Tile::kChannels * kRowBytes;
  weights += int64_t(range.first) * kBytes;
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    shared.full[slot].arrive_and_expect(kBytes);
    copy_bulk(shared.weights[slot], weights + int64_t(i) * kBytes, kBytes, shared.full[slot]);
  }
}

// By the helpers, each of which arrives at `biased`.
template <class T, class Tile>
__device__ void load_bias(DeformConv2dArguments<T> const& a, int64_t first, int64_t end, RegisterShared<Tile>& shared) {
  for (int i = threadIdx.x - Tile::kFirstHelper; i < Tile::kChannels; i += Tile::kHelpers)
    shared.bias[i] = a.bias && first + i < end ? to_float(a.bias[first + i]) : 0.f;
  shared.biased.arrive();
}

// Two rows of a tile, 8 apart. Of a stage's 64 channels a thread gathers 8 in each half; odd rows begin with the other
// half, so that a quarter of a warp reads 128 bytes of different banks at once.
template <class T>
struct RegisterRows {
  ChunkSource source;               // of the half that comes first; the other is 64 bytes before or after
  SampleCorners<T> const* corners;  // of the next stage to locate
  SampleCorners<T> upcoming[2];
  typename SampleCorners<T>::Lanes weights[2][2];
  uint4 corner[2][2][4];  // [which half comes first][row]

  __device__ explicit RegisterRows(ChunkSource const& source) : source(source) {}

  static __device__ int odd() { return threadIdx.x / 4 & 1; }
  static __device__ int row() { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
  static __device__ int chunk() { return odd() * (kRowChunks / 2) + threadIdx.x % 4; }

  __device__ void locate() {
#pragma unroll
    for (int i = 0; i < 2; ++i) upcoming[i] = corners[8 * i];
    corners += kWarpgroup;  // as many as positions of a tile
  }
  // Asks for the corners that were located last.
  __device__ void load() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      weights[i][0] = upcoming[i].weights[0], weights[i][1] = upcoming[i].weights[1];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        auto const at = reinterpret_cast<uintptr_t>(source.corner(upcoming[i], j));
        corner[0][i][j] = __ldg(reinterpret_cast<uint4 const*>(at));
        corner[1][i][j] = __ldg(reinterpret_cast<uint4 const*>(at ^ kRowBytes / 2));
      }
    }
  }
  // What wgmma takes for the 16 channels of each step.
  __device__ void sample(uint32_t (&fragment)[4][4]) const {
    uint4 sampled[2][2];
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        SampleCorners<T> at;
        at.weights[0] = weights[i][0], at.weights[1] = weights[i][1];
        sampled[which][i] = interpolate<T, false>(corner[which][i], at);
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      bool const first = (step / 2 == 1) == (odd() == 1);
      uint4 const low = first ? sampled[0][0] : sampled[1][0], high = first ? sampled[0][1] : sampled[1][1];
      fragment[step][0] = step % 2 ? low.z : low.x, fragment[step][1] = step % 2 ? high.z : high.x;
      fragment[step][2] = step % 2 ? low.w : low.y, fragment[step][3] = step % 2 ? high.w : high.y;
    }
  }
};

template <class T, class Tile>
__device__ void multiply_gathered(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                  PackedOperands<T> const& packed, int group, RegisterShared<Tile>& shared,
                                  float (&sum)[Tile::kChannels / 2]) {
  StageRange const range(plan);
  int const stages = range.count;
  int const run = range.first / plan.taps;  // of the group; the rest is its first tap
  int64_t const first_run = int64_t(group) * plan.segments * plan.chunks + run;
  RegisterRows<T> rows(ChunkSource(a, plan, packed, first_run, RegisterRows<T>::chunk()));
  int gathered_tap = range.first - run * plan.taps, located_tap = gathered_tap, located_run = run;
  auto corners_at = [&](int tap) {
    rows.corners = packed.corners + plan.corners_of(blockIdx.x, group, located_run / plan.chunks, tap) + rows.row();
  };
  auto locate = [&] {
    rows.locate();
    if (++located_tap == plan.taps) located_tap = 0, ++located_run, corners_at(0);
  };

  corners_at(located_tap);
  locate();
  rows.load();
  for (int i = 0; i < stages; ++i) {
    int const slot = i % Tile::kStages;
    bool const more = i + 1 < stages;
    if (more) locate();
    wait_for_wgmma<0>();
    if (i > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[(i - 1) % Tile::kStages].arrive();
    uint32_t fragment[4][4];
    rows.sample(fragment);
    shared.full[slot].wait(i / Tile::kStages % 2);
    uint64_t const weights = matrix_descriptor(shared_address(shared.weights[slot]));
    begin_wgmma();
#pragma unroll
    for (int step = 0; step < 4; ++step) Wgmma<T, Tile::kChannels>::add(sum, fragment[step], weights + 2 * step);
    commit_wgmma();
    if (more) {
      if (++gathered_tap == plan.taps) gathered_tap = 0, rows.source.x += kRowBytes;
      rows.load();
    }
  }
  wait_for_wgmma<0>();
}

#endif  // BRIDGE_WGMMA

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) deform_conv2d_register_kernel(DeformConv2dArguments<T> a,
                                                                                   DeformConv2dPlan plan,
                                                                                   PackedOperands<T> packed,
                                                                                   bool wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<RegisterShared<Tile>*>(memory);
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(2);
    }
    shared.biased.init(Tile::kHelpers);
    publish_to_wgmma();
  }
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    if (threadIdx.x == Tile::kConsumers) {
      int64_t const first = int64_t(blockIdx.y) * plan.stages() * Tile::kChannels * kRowBytes;
      produce_weights<Tile>(reinterpret_cast<char const*>(packed.weight) + first, StageRange(plan), shared);
    } else if (threadIdx.x >= Tile::kFirstHelper) {
      load_bias(a, group * plan.group_out + int64_t(tile) * Tile::kChannels, (group + 1) * plan.group_out, shared);
    }
    return;
  }
  set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
  float sum[Tile::kChannels / 2] = {};
  multiply_gathered<T, Tile>(a, plan, packed, group, shared, sum);

  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto each = [&](auto visit) {  // as in WarpProduct
#pragma unroll
    for (int i = 0; i < Tile::kChannels / 2; ++i)
      visit(16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, sum[i]);
  };
  if (plan.splits > 1) {
    float* const sums = partial_sums(packed, plan);
    each([&](int position, int channel, float value) { sums[channel * Tile::kPositions + position] = value; });
    return;
  }
  shared.biased.wait(0);
  synchronize_some(1, Tile::kConsumers);  // weights are no longer read
  auto& result = *reinterpret_cast<ResultTile<T, Tile::kPositions, Tile::kChannels>*>(memory);
  static_assert(sizeof(result) <= sizeof(shared.weights), "results take the place of weights");
  int64_t const out_first = group * plan.group_out + int64_t(tile) * Tile::kChannels;
  each([&](int position, int channel, float value) {
    result.value[channel][position] = from_float<T>(value + shared.bias[channel]);
  });
  synchronize_some(1, Tile::kConsumers);
  write_results<T, Tile::kConsumers>(a, plan.positions, out_first, (group + 1) * plan.group_out, result, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
