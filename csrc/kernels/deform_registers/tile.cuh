// What a thread of the fused deformable convolution for compute capability 9.0 holds: samples and sums in registers.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/deformable/deform_conv2d_fused.cuh"

namespace bridge {

constexpr int kWarpgroup = 128;  // threads

// kChannels: output channels of a tile. Positions are 128, 64 for each multiplying warpgroup. kParts: as in
// SplitProduct; a float that is not split is rounded to TF32. kBuffers: rows whose corners a thread has room for.
template <class T, int kChannels_, int kParts_ = 1>
struct RegisterTile {
  static constexpr bool kRounds = std::is_same_v<T, float> && kParts_ == 1;
  static constexpr int kPositions = 128, kChannels = kChannels_, kParts = kParts_;
  // Of 16-bit types samples' corners come with weights; and those of the next stage are gathered before a product
  // begins.
  static constexpr bool kCornersAhead = sizeof(T) == 2;
  static constexpr int kBuffers = kParts == 2 && kChannels > 64 ? 1 : 2;
  using Result = ResultTile<T, kPositions, kChannels>;
  static constexpr int kStageBytes = kParts * kChannels * kRowBytes;
  static constexpr int kCornerBytes = kPositions * sizeof(SampleCorners<T>);             // of a stage
  static constexpr int kLeastStages = (sizeof(Result) + kStageBytes - 1) / kStageBytes;  // results take their place
  static constexpr int kStages = std::max(kStageBytes < 32768 ? 4 : 3, kLeastStages);
  static constexpr int kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup;
  static constexpr int kFirstHelper = kConsumers + 32, kHelpers = kThreads - kFirstHelper;
  static constexpr int kConsumerRegisters = 240, kProducerRegisters = 24, kLaunchRegisters = 168;
};

template <class Tile>
struct RegisterShared {
  alignas(1024) unsigned char weights[Tile::kStages][Tile::kStageBytes];  // [slot][part, channel, depth]
  SharedBarrier full[Tile::kStages], empty[Tile::kStages], biased;
  float bias[Tile::kChannels];
  int64_t out_first, out_end;  // the tile's first output channel, and where its group's end
  // Of the stage after that whose weights are in the slot, where they come with these.
  alignas(
      16) unsigned char corners[Tile::kCornersAhead ? Tile::kStages : 1][Tile::kCornersAhead ? Tile::kCornerBytes : 1];
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

  __device__ void locate(SampleCorners<T> const* from) {  // of the first row
#pragma unroll
    for (int i = 0; i < 2; ++i) upcoming[i] = from[8 * i];
  }
  __device__ void locate() {
    locate(corners);
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

#endif  // BRIDGE_WGMMA

}  // namespace bridge
