// The fused deformable convolution for compute capability 9.0: some warps gather samples, two warpgroups multiply them
// with wgmma, and a ring of stages in shared memory lies between them.
#pragma once

#include "deform_conv2d_fused.cuh"

namespace bridge {

constexpr int kWarpgroup = 128;  // threads

// kChannels: output channels of a tile. Positions are 128, 64 for each multiplying warpgroup.
template <int kChannels_>
struct WarpgroupTile {
  static constexpr int kPositions = 128, kChannels = kChannels_;
  static constexpr int kBlocks = kChannels == 64 ? 2 : 1;  // on a multiprocessor
  static constexpr int kConsumers = 2 * kWarpgroup, kProducers = (kBlocks == 1 ? 2 : 1) * kWarpgroup;
  static constexpr int kThreads = kConsumers + kProducers, kProducerWarps = kProducers / 32;
  static constexpr int kStages = kChannels == 256 ? 3 : 4;
  // Corners are copied two stages ahead; a slot is free again when the samples that came of it are.
  static constexpr int kCornersAhead = 2, kCornerSlots = kStages + kCornersAhead;
  static constexpr int kAhead = kChannels == 256 ? 2 : 4;  // rows of samples under way in a gathering thread
  // Registers of a multiplying and of a gathering thread; together as many as the block starts with.
  static constexpr int kConsumerRegisters = kChannels == 64 ? 64 : kChannels == 128 ? 112 : 160;
  static constexpr int kProducerRegisters = kChannels == 64 ? 112 : kChannels == 128 ? 144 : 96;
  static constexpr int kLaunchRegisters = 65536 / (kThreads * kBlocks) / 8 * 8;
  // A multiplying thread's sums, for each instruction of up to 128 channels.
  static constexpr int kWide = kChannels < 128 ? kChannels : 128, kParts = kChannels / kWide, kSums = kWide / 2;
};

template <class T, class Tile>
struct WarpgroupShared {
  alignas(1024) unsigned char samples[Tile::kStages][Tile::kPositions * kRowBytes];
  alignas(1024) unsigned char weights[Tile::kStages][Tile::kChannels * kRowBytes];
  SampleCorners<T> corners[Tile::kCornerSlots][Tile::kPositions];
  SharedBarrier full[Tile::kStages], empty[Tile::kStages], located[Tile::kCornerSlots];
};

#ifdef BRIDGE_WGMMA

// A warp gathers the same positions in every stage: rows 4 warp + q + kRowStep i of the tile, a chunk of four of them
// at a time. Corners are asked for kAhead such rows ahead, into the next stage too.
template <class T, class Tile>
__device__ void produce_samples(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                PackedOperands<T> const& packed, int group, WarpgroupShared<T, Tile>& shared) {
  constexpr int kTogether = 32 / kRowChunks, kRows = Tile::kPositions / Tile::kProducerWarps / kTogether;
  constexpr int kAhead = Tile::kAhead, kRowStep = Tile::kPositions / kRows;
  constexpr uint32_t kWeightBytes = Tile::kChannels * kRowBytes, kCornerBytes = sizeof(shared.corners[0]);
  static_assert(kRowStep % 8 == 0, "rows of a thread share their swizzle");
  int const thread = threadIdx.x - Tile::kConsumers, lane = thread % 32;
  StageRange const range(plan);
  int const stages = range.count;
  int const first_row = thread / 32 * kTogether + lane / kRowChunks;
  int const offset = first_row * kRowBytes + swizzled(first_row, lane % kRowChunks) * kAccessBytes;
  int64_t const group_first = group * plan.group_channels;
  auto const* const weights =
      reinterpret_cast<char const*>(packed.weight) + (int64_t(blockIdx.y) * plan.stages() + range.first) * kWeightBytes;
  DeformConv2dStage located(plan, range.first);  // the stage whose corners are copied next, by the first thread
  auto locate = [&](int i) {
    SharedBarrier& barrier = shared.located[i % Tile::kCornerSlots];
    barrier.arrive_and_expect(kCornerBytes);
    copy_bulk(shared.corners[i % Tile::kCornerSlots],
              packed.corners + plan.corners_of(blockIdx.x, group, located.segment, located.tap), kCornerBytes, barrier);
    located.advance(plan);
  };
  if (thread == 0) {
    for (int i = 0; i < min(Tile::kCornersAhead, stages); ++i) locate(i);
  }

  DeformConv2dStage stage(plan, range.first);
  ChunkSource<T> source(a, plan, packed.x, group_first, stage);
  Gathered<T> ring[kAhead];
  shared.located[0].wait(0);
#pragma unroll
  for (int j = 0; j < kAhead; ++j) ring[j].load(source, shared.corners[0][first_row + j * kRowStep]);
  for (int i = 0; i < stages; ++i) {
    bool const more = i + 1 < stages;
    stage.advance(plan);
    ChunkSource<T> const next(a, plan, packed.x, group_first, stage);
    if (more) shared.located[(i + 1) % Tile::kCornerSlots].wait((i + 1) / Tile::kCornerSlots % 2);
    int const slot = i % Tile::kStages;
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    if (thread == 0) {
      shared.full[slot].arrive_and_expect(kWeightBytes);
      copy_bulk(shared.weights[slot], weights + int64_t(i) * kWeightBytes, kWeightBytes, shared.full[slot]);
      if (i + Tile::kCornersAhead < stages) locate(i + Tile::kCornersAhead);
    }
    unsigned char* const samples = shared.samples[slot] + offset;
    auto corners_of = [&](int row) {  // counted from this stage's first row
      return shared.corners[(i + row / kRows) % Tile::kCornerSlots][first_row + row % kRows * kRowStep];
    };
    SampleCorners<T> upcoming = corners_of(kAhead);
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      Gathered<T>& row = ring[j % kAhead];
      *reinterpret_cast<uint4*>(samples + j * kRowStep * kRowBytes) = row.template sample<false>();
      if (j + kAhead < kRows || more) row.load(j + kAhead < kRows ? source : next, upcoming);
      if (j + 1 < kRows) upcoming = corners_of(j + 1 + kAhead);
    }
    publish_to_wgmma();
    __syncwarp();
    if (lane == 0) shared.full[slot].arrive();
    source = next;
  }
}

template <class T, class Tile>
__device__ void consume_samples(int stages, WarpgroupShared<T, Tile>& shared, float (&sum)[Tile::kParts][Tile::kSums]) {
  constexpr int kPartRows = Tile::kWide * kRowBytes >> 4;  // in a descriptor's units
  int const half_tile = threadIdx.x / kWarpgroup * (Tile::kPositions / 2 * kRowBytes);
  for (int i = 0; i < stages; ++i) {
    int const slot = i % Tile::kStages;
    shared.full[slot].wait(i / Tile::kStages % 2);
    uint64_t const left = matrix_descriptor(shared_address(shared.samples[slot]) + half_tile);
    uint64_t const right = matrix_descriptor(shared_address(shared.weights[slot]));
    begin_wgmma();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        Wgmma<T, Tile::kWide>::add(sum[part], left + 2 * step, right + part * kPartRows + 2 * step);
    }
    commit_wgmma();
    wait_for_wgmma<1>();
    if (i > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[(i - 1) % Tile::kStages].arrive();
  }
  wait_for_wgmma<0>();
}

#endif  // BRIDGE_WGMMA

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) deform_conv2d_warpgroup_kernel(
    DeformConv2dArguments<T> a, DeformConv2dPlan plan, PackedOperands<T> packed, bool wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<WarpgroupShared<T, Tile>*>(memory);
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      shared.full[i].init(Tile::kProducerWarps + 1);
      shared.empty[i].init(2);
    }
    for (SharedBarrier& barrier : shared.located) barrier.init(1);
    publish_to_wgmma();
  }
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    produce_samples(a, plan, packed, group, shared);
    return;
  }
  set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
  float sum[Tile::kParts][Tile::kSums] = {};
  consume_samples<T, Tile>(StageRange(plan).count, shared, sum);

  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto each = [&](auto visit) {  // as in WarpProduct
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
      for (int i = 0; i < Tile::kSums; ++i)
        visit(16 * warp + lane / 4 + i / 2 % 2 * 8, part * Tile::kWide + i / 4 * 8 + lane % 4 * 2 + i % 2,
              sum[part][i]);
    }
  };
  if (plan.splits > 1) {
    float* const sums = partial_sums(packed, plan);
    each([&](int position, int channel, float value) { sums[channel * Tile::kPositions + position] = value; });
    return;
  }
  synchronize_some(1, Tile::kConsumers);
  auto& result = *reinterpret_cast<ResultTile<T, Tile::kPositions, Tile::kChannels>*>(memory);
  int64_t const out_first = group * plan.group_out + int64_t(tile) * Tile::kChannels;
  int64_t const out_end = (group + 1) * plan.group_out;
  each([&](int position, int channel, float value) {
    float const bias = a.bias && out_first + channel < out_end ? to_float(a.bias[out_first + channel]) : 0.f;
    result.value[channel][position] = from_float<T>(value + bias);
  });
  synchronize_some(1, Tile::kConsumers);
  write_results<T, Tile::kConsumers>(a, plan.positions, out_first, out_end, result, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
