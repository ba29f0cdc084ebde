// The fused deformable convolution for compute capability 9.0 with samples in registers: each thread of two warpgroups
// gathers the samples that wgmma wants of it, so that they never pass through shared memory, which holds the weights
// alone. A thread asks for the next corners when it has given the tensor cores what it gathered last.
#pragma once

#include "kernels/deformable/deform_conv2d_fused.cuh"

namespace bridge {

constexpr int kWarpgroup = 128;  // threads

// kChannels: output channels of a tile. Positions are 128, 64 for each multiplying warpgroup. kParts: as in
// SplitProduct; a float that is not split is rounded to TF32. kBuffers: rows whose corners a thread has room for.
template <class T, int kChannels_, int kParts_ = 1>
struct RegisterTile {
  static constexpr bool kRounds = std::is_same_v<T, float> && kParts_ == 1;
  static constexpr int kPositions = 128, kChannels = kChannels_, kParts = kParts_;
  static constexpr bool kSamplesEarly = std::is_same_v<T, float>;  // measured: 16-bit types lose a per cent by it
  static constexpr int kBuffers = kParts == 2 && kChannels > 64 ? 1 : 2;
  using Result = ResultTile<T, kPositions, kChannels>;
  static constexpr int kStageBytes = kParts * kChannels * kRowBytes;
  static constexpr int kLeastStages = (sizeof(Result) + kStageBytes - 1) / kStageBytes;  // results take their place
  static constexpr int kStages = std::max(kStageBytes < 32768 ? 4 : 3, kLeastStages);
  static constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup;
  static constexpr int kFirstHelper = kConsumers + 32, kHelpers = kThreads - kFirstHelper;
  static constexpr int kConsumerRegisters = 240, kProducerRegisters = 24, kLaunchRegisters = 168;
};

template <class Tile>
struct RegisterShared {
  alignas(1024) unsigned char weights[Tile::kStages][Tile::kStageBytes];
  SharedBarrier full[Tile::kStages], empty[Tile::kStages], biased;
  float bias[Tile::kChannels];
  int64_t out_first, out_end;  // the tile's first output channel, and where its group's end
};

// Whether the channels that wgmma pairs with what a thread holds are those that it gathered: in the half of step / 2,
// of its 16 bytes there the words of step % 2.
template <class T>
constexpr bool fragments_are_gathered() {
  constexpr int kInWord = 4 / sizeof(T);
  bool same = true;
  for (int k = 0; k < kDepth<T>; ++k) {
    int const word = k / kInWord, step = word / 8, half_of_step = word % 8 / 4, lane = word % 4;
    int const gathered = step / 2 * 16 + lane * 4 + step % 2 * 2 + half_of_step;
    same = same && fragment_channel<T>(k) == gathered * kInWord + k % kInWord;
  }
  return same;
}
static_assert(fragments_are_gathered<half>() && fragments_are_gathered<float>());

#ifdef BRIDGE_WGMMA

// One thread copies the weights of each stage.
template <class Tile>
__device__ void produce_weights(char const* weights, StageRange const& range, RegisterShared<Tile>& shared) {
  constexpr uint32_t kBytes = Tile::kStageBytes;
  weights += int64_t(range.first) * kBytes;
  for (int i = 0; i < range.count; ++i) {
    int const slot = i % Tile::kStages;
    shared.empty[slot].wait(i / Tile::kStages % 2 ^ 1);
    shared.full[slot].arrive_and_expect(kBytes);
    copy_bulk(shared.weights[slot], weights + int64_t(i) * kBytes, kBytes, shared.full[slot]);
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

// Two rows of a tile, 8 apart. Of a stage's 128 bytes of channels a thread gathers 16 in each half; odd rows begin with
// the other half, so that a quarter of a warp reads 128 bytes of different banks at once.
template <class T, class Tile>
struct RegisterRows {
  ChunkSource source;               // of the half that comes first; the other is 64 bytes before or after
  SampleCorners<T> const* corners;  // of the next stage to locate
  SampleCorners<T> upcoming[2], at[2];
  uint4 corner[Tile::kBuffers][2][4];  // on their way: [row, in turn][which half comes first]
  uint4 sampled[2][2];                 // [row][which half comes first]

  __device__ explicit RegisterRows(ChunkSource const& source) : source(source) {}

  static __device__ int odd() { return threadIdx.x / 4 & 1; }
  static __device__ int row() { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
  static __device__ int chunk() { return odd() * (kRowChunks / 2) + threadIdx.x % 4; }

  __device__ void locate() {
#pragma unroll
    for (int i = 0; i < 2; ++i) upcoming[i] = corners[8 * i];
    corners += Tile::kPositions;
  }
  // Asks for the corners that were located last: of both rows, or of the second one when the first has been sampled.
  __device__ void load() {
#pragma unroll
    for (int i = 0; i < 2; ++i) at[i] = upcoming[i];
    load_row(0);
    if constexpr (Tile::kBuffers == 1) sample_row(0);
    load_row(1);
  }
  __device__ void load_row(int row) {
    auto& to = corner[row % Tile::kBuffers];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      auto const address = reinterpret_cast<uintptr_t>(source.corner(upcoming[row], j));
      to[0][j] = __ldg(reinterpret_cast<uint4 const*>(address));
      to[1][j] = __ldg(reinterpret_cast<uint4 const*>(address ^ kRowBytes / 2));
    }
  }
  // Interpolates between what `load` asked for.
  __device__ void sample() {
    if constexpr (Tile::kBuffers == 2) sample_row(0);
    sample_row(1);
  }
  __device__ void sample_row(int row) {
#pragma unroll
    for (int which = 0; which < 2; ++which)
      sampled[row][which] = interpolate<T, Tile::kRounds>(corner[row % Tile::kBuffers][which], at[row]);
  }
  // What wgmma takes for each step, of each part of the samples.
  __device__ void arrange(uint32_t (&fragment)[Tile::kParts][4][4]) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      bool const first = (step / 2 == 1) == (odd() == 1);
      uint4 const low = first ? sampled[0][0] : sampled[0][1], high = first ? sampled[1][0] : sampled[1][1];
      auto& whole = fragment[0][step];
      whole[0] = step % 2 ? low.z : low.x, whole[1] = step % 2 ? high.z : high.x;
      whole[2] = step % 2 ? low.w : low.y, whole[3] = step % 2 ? high.w : high.y;
      if constexpr (Tile::kParts == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fragment[1][step][i] = split_off(whole[i]);
      }
    }
  }
};

// A thread's sums, as wgmma has them.
template <class T, class Tile>
struct RegisterProduct {
  static constexpr int kSums = Tile::kChannels / 2;
  float sum[kSums] = {};
  float part[Tile::kParts == 2 ? kSums : 1] = {};  // of a stage, where floats are split: see SplitProduct

  // Gives a stage to the tensor cores.
  __device__ void start(uint32_t const (&fragment)[Tile::kParts][4][4], uint64_t weights) {
    using Multiply = Wgmma<T, Tile::kChannels>;
    begin_wgmma();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if constexpr (Tile::kParts == 2) {
        constexpr uint64_t kLow = Tile::kChannels * kRowBytes >> 4;  // from the weights' first part to the second
        Multiply::add(part, fragment[1][step], weights + 2 * step, step > 0);
        Multiply::add(part, fragment[0][step], weights + kLow + 2 * step);
      } else {
        Multiply::add(sum, fragment[0][step], weights + 2 * step);
      }
    }
    if constexpr (Tile::kParts == 2) {  // the largest come last, for tensor cores round after each
#pragma unroll
      for (int step = 0; step < 4; ++step) Multiply::add(part, fragment[0][step], weights + 2 * step);
    }
    commit_wgmma();
  }
  // Waits until they are done with it.
  __device__ void finish() {
    wait_for_wgmma<0>();
    if constexpr (Tile::kParts == 2) {
      hold_registers(part);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] += part[i];
    }
  }
};

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
  int const runs = plan.segments_per_offset_group * plan.chunks;  // that share corners; the next ones' follow them
  int located_run =
      (group * plan.segments + first.segment) % plan.segments_per_offset_group * plan.chunks + first.chunk;
  int gathered_tap = first.tap, located_tap = first.tap;
  auto locate = [&] {
    rows.locate();
    if (++located_tap < plan.taps) return;
    located_tap = 0;
    if (++located_run < runs) {
      rows.corners -= plan.taps * Tile::kPositions;
    } else {
      located_run = 0;
    }
  };

  locate();
  rows.load();
  for (int i = 0; i < stages; ++i) {
    int const slot = i % Tile::kStages;
    bool const more = i + 1 < stages;
    if (more) locate();
    if constexpr (Tile::kSamplesEarly) rows.sample();  // while the tensor cores work
    product.finish();
    if (i > 0 && threadIdx.x % kWarpgroup == 0) shared.empty[(i - 1) % Tile::kStages].arrive();
    if constexpr (!Tile::kSamplesEarly) rows.sample();
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
      int64_t const first = int64_t(blockIdx.y) * plan.stages() * Tile::kStageBytes;
      produce_weights<Tile>(reinterpret_cast<char const*>(packed.weight) + first, StageRange(plan), shared);
    } else if (threadIdx.x >= Tile::kFirstHelper) {
      load_bias(a, group * plan.group_out + int64_t(tile) * Tile::kChannels, (group + 1) * plan.group_out, shared);
    }
    return;
  }
  set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
  RegisterProduct<T, Tile> product;
  multiply_gathered<T, Tile>(a, plan, packed, group, shared, product);

  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto each = [&](auto visit) {  // as in WarpProduct
#pragma unroll
    for (int i = 0; i < Tile::kChannels / 2; ++i)
      visit(16 * warp + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2, product.sum[i]);
  };
  if (plan.splits > 1) {
    float* const sums = partial_sums(packed, Tile::kPositions * Tile::kChannels);
    each([&](int position, int channel, float value) { sums[channel * Tile::kPositions + position] = value; });
    return;
  }
  shared.biased.wait(0);
  synchronize_some(1, Tile::kConsumers);  // weights are no longer read
  auto& result = *reinterpret_cast<typename Tile::Result*>(memory);
  each([&](int position, int channel, float value) {
    result.value[channel][position] = from_float<T>(value + shared.bias[channel]);
  });
  synchronize_some(1, Tile::kConsumers);
  write_results<T, Tile::kConsumers>(a, plan.positions, shared.out_first, shared.out_end, result, wide);
#else
  __trap();
#endif
}

}  // namespace bridge
