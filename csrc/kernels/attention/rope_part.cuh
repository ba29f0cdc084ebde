// The kernel of rope for half-split pairs of a part of each head whose halves are no whole accesses, as where 24 of 96
// elements are rotated: a thread has 16 bytes of a head, rotated or not, and reads what its own are rotated with beside
// them. Warps then go one way, in accesses side by side.
#pragma once

#include "kernels/attention/rope_kernel.cuh"

namespace bridge {

// kTogether: elements that are read at once of those to rotate with, and of tables; halves are multiples of it. The
// rest is as RopeWay has it.
template <class T, int kTogether_, int kHeads_, bool kFull_, bool kGathers_>
struct RopePartWay {
  static constexpr int kTogether = kTogether_, kHeads = kHeads_, kLanes = kAccessBytes / sizeof(T);
  static constexpr int kGroups = kLanes / kTogether, N = kTogether, kEntries = kTogether, kTables = 1;
  static constexpr bool kFull = kFull_, kGathers = kGathers_, kAligned = true, kInterleaved = false;
  using Offset = uint64_t;
};

// kTogether elements of a thread: which of a head, and those that they are rotated with.
struct RopeGroup {
  int first, other;
  bool low, rotated;

  __device__ RopeGroup(int first, int rotary_dim)
      : first(first), low(first < rotary_dim / 2), rotated(first < rotary_dim) {
    other = low ? first + rotary_dim / 2 : first - rotary_dim / 2;
  }
};

// x' = x cos - y sin, y' = y cos + x sin
template <class Way, class T, class Table>
__device__ void rope_part_unit(RopeArguments<T, Table> const& a, uint64_t b, uint32_t s, int first_head, int step,
                               int element) {
  using Packet = RopePacket<T, Way::kLanes, true>;
  using Others = RopePacket<T, Way::kTogether, true>;
  RopePlaces<Way, T> const places(a, b, s, first_head, step, element);
  Packet packet[Way::kHeads];
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) packet[j] = *reinterpret_cast<Packet const*>(places.in[j]);
  if (element < a.rotary_dim) {
    Others others[Way::kGroups][Way::kHeads];
    RopeEntries<Way, Table> entries[Way::kGroups];
#pragma unroll
    for (int i = 0; i < Way::kGroups; ++i) {
      RopeGroup const group(element + i * Way::kTogether, a.rotary_dim);
      if (!group.rotated) break;
#pragma unroll
      for (int j = 0; j < Way::kHeads; ++j)
        others[i][j] = *reinterpret_cast<Others const*>(places.in[j] + (group.other - element));
      entries[i].load(a, b, s, Way::kFull ? group.first : min(group.first, group.other));
    }
#pragma unroll
    for (int i = 0; i < Way::kGroups; ++i) {
      RopeGroup const group(element + i * Way::kTogether, a.rotary_dim);
      if (!group.rotated) break;
#pragma unroll
      for (int j = 0; j < Way::kHeads; ++j) {
#pragma unroll
        for (int lane = 0; lane < Way::kTogether; ++lane) {
          T& own = packet[j].lane[i * Way::kTogether + lane];
          float const other = to_float(others[i][j].lane[lane]), sine = entries[i].sine_of(0, lane);
          own = from_float<T>(to_float(own) * entries[i].cosine_of(0, lane) + (group.low ? -other : other) * sine);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
    if (places.exists[j]) *reinterpret_cast<Packet*>(places.out[j]) = packet[j];
  }
}

// Block: x over a head's accesses, y over heads, z over tokens. Grid: x over tokens, y over heads, z over the batch.
template <class Way, class T, class Table>
__global__ void __launch_bounds__(kRopeThreads) rope_part_kernel(RopeArguments<T, Table> a) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  int const step = gridDim.y * blockDim.y, first_head = blockIdx.y * blockDim.y + threadIdx.y;
  uint32_t const s = blockIdx.x * blockDim.z + threadIdx.z;
  if (s >= a.seq || first_head >= a.heads) return;
  rope_part_unit<Way>(a, blockIdx.z, s, first_head, step, static_cast<int>(threadIdx.x) * Way::kLanes);
}

// A block of some tokens, and as many of their heads as its threads have room for.
template <class Way, class T, class Table>
struct RopePartGrid {
  static constexpr int64_t kMost = 128, kTokens = 4, kMaxGrid = 65535;
  int64_t x, y, z, slots;

  explicit RopePartGrid(RopeArguments<T, Table> const& a)
      : x(a.head_dim / Way::kLanes), z(std::min<int64_t>(a.seq, kTokens)), slots(ceil_divide(a.heads, Way::kHeads)) {
    int64_t const room = std::max<int64_t>(kMost / (x * z), 1), parts = ceil_divide(slots, room);
    y = ceil_divide(slots, parts);  // all blocks alike
  }
  bool covers(RopeArguments<T, Table> const& a) const {
    return x <= kMost && ceil_divide(slots, y) <= kMaxGrid && a.batch <= kMaxGrid;
  }
  cudaError_t launch(RopeArguments<T, Table> const& a, cudaStream_t stream) const {
    dim3 const block(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    dim3 const grid(static_cast<unsigned>(ceil_divide(a.seq, z)), static_cast<unsigned>(ceil_divide(slots, y)),
                    static_cast<unsigned>(a.batch));
    return launch_early<rope_part_kernel<Way, T, Table>>(grid, block, stream, a);
  }
};

}  // namespace bridge
