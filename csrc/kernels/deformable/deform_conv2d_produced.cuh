// The fused deformable convolution for compute capability 9.0 with gathers of their own: a warpgroup gathers samples
// into shared memory, a stage or two ahead of two others, which do nothing but multiply them with weights. Neither
// waits for the other's work as long as both take the same time.
//
// For 128 positions, 256 output channels and 128 bytes of depth an H200 needs 1,024 cycles of tensor cores, and its
// multiprocessor's memory about 1,500: 64 KB of corners, 16 of samples written and 16 read, 32 of weights written and
// 64 read, at 128 bytes a cycle. Samples in registers (deform_conv2d_registers.cuh) spare the 32 KB of samples, but
// there gathering, interpolating and multiplying overlap little: 2,210 cycles, as measured.
#pragma once

#include "kernels/deformable/deform_conv2d_registers.cuh"

namespace bridge {

// kChannels: output channels of a tile.
template <class T_, int kChannels_>
struct ProducedTile {
  using T = T_;
  static constexpr int kPositions = 128, kChannels = kChannels_, kStages = kChannels > 128 ? 3 : 4;
  static constexpr int kConsumers = 2 * kWarpgroup, kProducers = kWarpgroup, kThreads = kConsumers + kProducers;
  static constexpr int kWeightBytes = kChannels * kRowBytes, kSampleBytes = kPositions * kRowBytes;
  static constexpr int kConsumerRegisters = 160, kProducerRegisters = 184, kLaunchRegisters = 168;
  static_assert(kConsumers * kConsumerRegisters + kProducers * kProducerRegisters <= kThreads * kLaunchRegisters);
};

// Results take the place of what comes first, once all of it has been multiplied.
template <class Tile>
struct ProducedShared {
  alignas(1024) unsigned char weights[Tile::kStages][Tile::kWeightBytes];  // [slot][channel, depth]
  alignas(1024) unsigned char samples[Tile::kStages][Tile::kSampleBytes];  // [slot][position, depth]
  SharedBarrier full[Tile::kStages], empty[Tile::kStages];
};

#ifdef BRIDGE_WGMMA

// What a producing thread gathers: its chunk of every 16th position, row after row and stage after stage. While a row
// is interpolated, the next ones are on their way.
template <class T, class Tile>
struct ProducedRows {
  static constexpr int kRowStep = Tile::kProducers / kRowChunks, kRows = Tile::kPositions / kRowStep, kAhead = 4;
  static_assert(kRows % kAhead == 0 && kRowStep % 8 == 0, "rows of a thread share their swizzle");

  DeformConv2dPlan const& plan;
  ChunkSource source;
  LocatedRuns<Tile> located;
  SampleCorners<T> const* corners;  // of the stage to locate: this thread's first row
  SampleCorners<T> upcoming[kRows];
  Gathered<T> gathered[kAhead];
  int tap;      // of the stage to load
  int to_find;  // stages

  __device__ ProducedRows(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                          PackedOperands<T> const& packed, int group, DeformConv2dStage const& first, int stages)
      : plan(plan),
        source(a, plan, packed, plan.run_of(group, first.segment, first.chunk), chunk()),
        located(plan, group, first),
        corners(packed.corners + plan.corners_of(blockIdx.x, group, first.segment, first.tap) + row()),
        tap(first.tap),
        to_find(stages) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) locate(i);
    next_located();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load(i);
  }

  static __device__ int thread() { return threadIdx.x - Tile::kConsumers; }
  static __device__ int row() { return thread() / kRowChunks; }
  static __device__ int chunk() { return thread() % kRowChunks; }

  __device__ void locate(int i) {
    if (to_find > 0) upcoming[i] = corners[i * kRowStep];
  }
  __device__ void next_located() {
    corners += Tile::kPositions, --to_find;
    located.advance(plan, corners);
  }
  // Asks for the corners of a row, and where those of the next stage's are.
  __device__ void load(int i) {
    gathered[i % kAhead].load(source, upcoming[i]);
    locate(i);
    if (i < kRows - 1) return;
    next_located();
    if (++tap == plan.taps) tap = 0, source.x += kRowBytes;
  }
  __device__ void store(int i, unsigned char* samples) const {
    int const place = (row() + i * kRowStep) * kRowBytes + swizzled(row(), chunk()) * kAccessBytes;
    *reinterpret_cast<uint4*>(samples + place) = gathered[i % kAhead].template sample<false>();
  }
  // Writes a stage, and asks for rows of it and of the next one.
  __device__ void produce(unsigned char* samples, bool more) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      store(i, samples);
      if (i + kAhead < kRows || more) load((i + kAhead) % kRows);
    }
  }
};

template <class T, class Tile>
__device__ void produce_stages(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                               PackedOperands<T> const& packed, int group, ProducedShared<Tile>& shared) {
  StageRange const range(plan);
  auto const* weights = reinterpret_cast<char const*>(packed.weight) +
                        (int64_t(blockIdx.y) * plan.stages() + range.first) * Tile::kWeightBytes;
  ProducedRows<T, Tile> rows(a, plan, packed, group, DeformConv2dStage(plan, range.first), range.count);
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    if (rows.thread() == 0) {
      shared.full[slot].arrive_and_expect(Tile::kWeightBytes);
      copy_bulk(shared.weights[slot], weights + int64_t(i) * Tile::kWeightBytes, Tile::kWeightBytes, shared.full[slot]);
    }
    __syncwarp();
    rows.produce(shared.samples[slot], i + 1 < range.count);
    publish_to_wgmma();
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.full[slot].arrive();
  }
}

// Sums of a multiplying thread, as wgmma has them.
template <class Tile>
struct ProducedProduct : Tile {
  using T = typename Tile::T;
  static constexpr int kThreads = Tile::kConsumers, kSums = Tile::kChannels / 2;
  float sum[kSums] = {};

  static __device__ void synchronize() { synchronize_some(1, kThreads); }

  __device__ void start(uint64_t samples, uint64_t weights) {
    begin_wgmma();
#pragma unroll
    for (int step = 0; step < 4; ++step) Wgmma<T, Tile::kChannels>::add(sum, samples + 2 * step, weights + 2 * step);
    commit_wgmma();
  }
  // Multiplies each stage as it comes, and gives its place back when the next one has been started.
  __device__ void multiply(ProducedShared<Tile>& shared, int stages) {
    int const first_row = static_cast<int>(threadIdx.x) / kWarpgroup * 64;
    auto const give_back = [&](int i) {
      if (threadIdx.x % kWarpgroup == 0) shared.empty[i % Tile::kStages].arrive();
    };
    for (int i = 0; i < stages; ++i) {
      int const slot = i % Tile::kStages;
      shared.full[slot].wait(i / Tile::kStages % 2);
      start(matrix_descriptor(shared_address(shared.samples[slot] + first_row * kRowBytes)),
            matrix_descriptor(shared_address(shared.weights[slot])));
      wait_for_wgmma<1>();
      if (i > 0) give_back(i - 1);
    }
    wait_for_wgmma<0>();
    hold_registers(sum);
  }

  template <class Visit>
  __device__ void each(Visit visit) const {
    int const lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < kSums; ++i) visit(first + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, sum[i]);
  }
};

#endif  // BRIDGE_WGMMA

// Grid: x over tiles of positions, y over tiles of output channels, z over splits.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) deform_conv2d_produced_kernel(DeformConv2dArguments<T> a,
                                                                                   DeformConv2dPlan plan,
                                                                                   PackedOperands<T> packed,
                                                                                   bool wide) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ProducedShared<Tile>*>(memory);
  static_assert(sizeof(ResultTile<T, Tile::kPositions, Tile::kChannels>) <= sizeof(shared.weights));
  int const group = blockIdx.y / plan.tiles, tile = blockIdx.y % plan.tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      shared.full[i].init(Tile::kProducers / 32 + 1);  // a warp's samples each, and the weights
      shared.empty[i].init(Tile::kConsumers / kWarpgroup);
    }
    publish_to_wgmma();
  }
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    produce_stages(a, plan, packed, group, shared);
  } else {
    set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
    ProducedProduct<Tile> product;
    product.multiply(shared, StageRange(plan).count);
    write_sums(a, plan, packed, group, tile, product, memory, wide);
  }
#else
  __trap();
#endif
}

}  // namespace bridge
