// What the kernels of rope take, and the ways in which they are made.
#pragma once

#include <type_traits>

#include "kernels/common/overlap.cuh"
#include "kernels/common/vec.cuh"

namespace bridge {

// Elements from one batch element, token and head to the next; head_dim itself is dense.
struct RopeStrides {
  int64_t batch;
  uint32_t seq, head;

  template <class Offset>
  __device__ Offset offset(Offset b, uint32_t s, uint32_t h) const {
    return b * Offset(batch) + Offset(s) * seq + Offset(h) * head;
  }
};

// q or k, before and after; in memory heads may come before seq, as strides say.
template <class T>
struct RopeTensor {
  T const* in;  // [batch, seq, heads, head_dim]
  T* out;       // [batch, seq, heads, head_dim]
  RopeStrides in_strides, out_strides;
};

// table_width is rotary_dim / 2, or rotary_dim with a value for each element. table_step, ids_step: elements from one
// batch element to the next, none where it has nothing of its own.
template <class T, class Table>
struct RopeArguments {
  RopeTensor<T> tensor[2];   // q, k
  Table const* cos;          // [batch or 1, table_rows, table_width]
  Table const* sin;          // [batch or 1, table_rows, table_width]
  void const* position_ids;  // [batch or 1, seq], or null; with them tables are those of all of the batch
  bool wide_ids;             // position ids are int64, else int32
  bool heads_first;          // of two tokens and two heads, tokens lie closer together
  int64_t batch;
  int seq, head_dim, rotary_dim, heads_q, heads;  // heads: of q and k
  uint32_t table_width;
  int64_t table_rows, table_step, ids_step;
};

constexpr int kRopeThreads = 512;

// N elements that are read and written at once: in one access where they are aligned.
template <class T, int N, bool kAligned>
struct alignas(kAligned ? alignof(Vec<T, N>) : alignof(T)) RopePacket {
  T lane[N];
};

// What a kernel is for. kAny: nothing need be aligned, and loops take what a grid cannot hold. kMany: tokens that fill
// a GPU, 16 bytes at once; kManyHalved: the same, 8 bytes at once. kFew, kFewGathered: so few that a thread's way to
// its loads is most of the time, with offsets of 32 bits, 8 bytes at once; without position ids and with them.
enum class RopeScale { kAny, kMany, kManyHalved, kFew, kFewGathered };

// How a kernel is made. kPackets: 2 for half-split pairs, whose two elements lie in two packets of N, half of
// rotary_dim apart; 1 for interleaved ones, which lie side by side in one. kFull: tables have a value for each element.
// kHeads: of a thread. kGathers: there may be position ids.
template <class T, RopeScale kScale, int kPackets_, bool kFull_>
struct RopeWay {
  static constexpr bool kAligned = kScale != RopeScale::kAny, kFull = kFull_, kGathers = kScale != RopeScale::kFew;
  static constexpr bool kFew = kScale == RopeScale::kFew || kScale == RopeScale::kFewGathered;
  static constexpr bool kHalved = kFew || kScale == RopeScale::kManyHalved;
  static constexpr int kPackets = kPackets_, kHeads = kAligned && !kFew ? 2 : 1;
  static constexpr bool kInterleaved = kPackets == 1;
  static constexpr int N = !kAligned ? (kInterleaved ? 2 : 1) : kAccessBytes / sizeof(T) / (kHalved ? 2 : 1);
  // Table entries for a packet: interleaved pairs share those of a table of half width.
  static constexpr int kEntries = kInterleaved && !kFull ? N / 2 : N, kTables = kFull ? kPackets : 1;
  static constexpr int kCopied = kAligned ? N : 1;  // elements that a thread copies where nothing is rotated
  static constexpr int64_t kMost = kFew ? 128 : 256, kMostOfToken = kFew ? 128 : 512;  // threads of a block
  using Offset = std::conditional_t<kFew, uint32_t, uint64_t>;
};

// The elements of a head are divided into units: first those that are rotated, then those that are copied.
template <class Way>
struct RopeUnits {
  int rotary_dim, rotated, count;

  __host__ __device__ RopeUnits(int head_dim, int rotary_dim)
      : rotary_dim(rotary_dim),
        rotated(rotary_dim / (Way::kPackets * Way::N)),
        count(rotated + (head_dim - rotary_dim) / Way::kCopied) {}
  __device__ int first(int unit) const {
    return unit < rotated ? unit * Way::N : rotary_dim + (unit - rotated) * Way::kCopied;
  }
};

}  // namespace bridge
