// Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864) of queries and keys in one launch.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

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

// q or k, before and after: [batch, seq, heads, head_dim], or heads before seq.
template <class T>
struct RopeTensor {
  T const* in;
  T* out;
  RopeStrides in_strides, out_strides;
};

// cos, sin: [batch or 1, table_rows, table_width]; position_ids: [batch or 1, seq] or null, with tables for all of the
// batch. table_width is rotary_dim / 2, or rotary_dim with a value for each element. table_step, ids_step: elements
// from one batch element to the next, none where it has nothing of its own.
template <class T, class Table>
struct RopeArguments {
  RopeTensor<T> tensor[2];  // q, k
  Table const* cos;
  Table const* sin;
  void const* position_ids;
  bool wide_ids;     // int64, else int32
  bool heads_first;  // of two tokens and two heads, tokens lie closer together
  int64_t batch;
  int seq, head_dim, rotary_dim, heads_q, heads;  // heads: of q and k
  uint32_t table_width;
  int64_t table_rows, table_step, ids_step;
};

template <class T, class Table>
__device__ int64_t rope_position(RopeArguments<T, Table> const& a, uint64_t b, uint32_t s) {
  uint64_t const i = b * a.ids_step + s;
  return a.wide_ids ? static_cast<int64_t const*>(a.position_ids)[i]
                    : int64_t(static_cast<int32_t const*>(a.position_ids)[i]);
}

constexpr int kRopeThreads = 512;

// N elements that are read and written at once: in one access where they are aligned.
template <class T, int N, bool kAligned>
struct alignas(kAligned ? alignof(Vec<T, N>) : alignof(T)) RopePacket {
  T lane[N];
};

// What a kernel is for. kAny: nothing need be aligned, and loops take what a grid cannot hold. The others access 16
// bytes at once, or half of that. kMany: tokens that fill a GPU. kFew, kFewGathered: so few that a thread's way to its
// loads is most of the time, with offsets of 32 bits; without position ids and with them.
enum class RopeScale { kAny, kMany, kFew, kFewGathered };

// How a kernel is made. kPackets: 2 for half-split pairs, whose two elements lie in two packets of N, half of
// rotary_dim apart; 1 for interleaved ones, which lie side by side in one. kFull: tables have a value for each element.
// kHeads: of a thread. kGathers: there may be position ids.
template <class T, RopeScale kScale, int kPackets_, bool kFull_>
struct RopeWay {
  static constexpr bool kAligned = kScale != RopeScale::kAny, kFull = kFull_, kGathers = kScale != RopeScale::kFew;
  static constexpr bool kFew = kScale == RopeScale::kFew || kScale == RopeScale::kFewGathered;
  static constexpr int kPackets = kPackets_, kHeads = kScale == RopeScale::kMany ? 2 : 1;
  static constexpr bool kInterleaved = kPackets == 1;
  static constexpr int N = !kAligned ? (kInterleaved ? 2 : 1) : kAccessBytes / sizeof(T) / (kFew ? 2 : 1);
  // Table entries for a packet: interleaved pairs share those of a table of half width.
  static constexpr int kEntries = kInterleaved && !kFull ? N / 2 : N, kTables = kFull ? kPackets : 1;
  static constexpr int kCopied = kAligned ? N : 1;   // elements that a thread copies where nothing is rotated
  static constexpr int64_t kMost = kFew ? 64 : 256;  // threads of a block
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

// Cosines and sines of a unit, as they are in memory; NaN for a token outside the tables.
template <class Way, class Table>
struct RopeEntries {
  using Packet = RopePacket<Table, Way::kEntries, Way::kAligned>;
  Packet cosine[Way::kTables], sine[Way::kTables];
  bool known;

  using Offset = typename Way::Offset;

  template <class T>
  __device__ void load(RopeArguments<T, Table> const& a, Offset b, uint32_t s, uint32_t first) {
    Offset at = Way::kInterleaved && !Way::kFull ? first / 2 : first;
    known = true;
    if (Way::kGathers && a.position_ids) {
      int64_t const id = rope_position(a, b, s);
      known = id >= 0 && id < a.table_rows;
      if (!known) return;
      at += Offset(id) * a.table_width;
    } else {
      at += b * Offset(a.table_step) + Offset(s) * a.table_width;
    }
#pragma unroll
    for (int i = 0; i < Way::kTables; ++i) {
      cosine[i] = *reinterpret_cast<Packet const*>(a.cos + at + i * (a.rotary_dim / 2));
      sine[i] = *reinterpret_cast<Packet const*>(a.sin + at + i * (a.rotary_dim / 2));
    }
  }
  __device__ float cosine_of(int table, int entry) const { return value(cosine[table], entry); }
  __device__ float sine_of(int table, int entry) const { return value(sine[table], entry); }

 private:
  __device__ float value(Packet const& packet, int entry) const {
    return known ? to_float(packet.lane[entry]) : nanf("");
  }
};

// x' = x cos_x - y sin_x, y' = y cos_y + x sin_y
template <class Way, class T, class Table>
__device__ void rope_rotate(RopePacket<T, Way::N, Way::kAligned> (&packet)[Way::kPackets],
                            RopeEntries<Way, Table> const& entries) {
  constexpr int kStep = Way::kInterleaved ? 2 : 1, kNext = kStep - 1, kLast = Way::kTables - 1;
  constexpr bool kShared = Way::kInterleaved && !Way::kFull;
#pragma unroll
  for (int i = 0; i < Way::N; i += kStep) {
    int const x_entry = kShared ? i / 2 : i, y_entry = kShared ? i / 2 : i + kNext;
    T &x = packet[0].lane[i], &y = packet[Way::kPackets - 1].lane[i + kNext];
    float const low = to_float(x), high = to_float(y);
    x = from_float<T>(low * entries.cosine_of(0, x_entry) - high * entries.sine_of(0, x_entry));
    y = from_float<T>(high * entries.cosine_of(kLast, y_entry) + low * entries.sine_of(kLast, y_entry));
  }
}

// An element of a thread's heads, `step` apart: from where to where. The last head stands for those that are none.
template <class Way, class T>
struct RopePlaces {
  T const* in[Way::kHeads];
  T* out[Way::kHeads];
  bool exists[Way::kHeads];

  using Offset = typename Way::Offset;

  template <class Table>
  __device__ RopePlaces(RopeArguments<T, Table> const& a, Offset b, uint32_t s, int first_head, int step, int element) {
#pragma unroll
    for (int j = 0; j < Way::kHeads; ++j) {
      exists[j] = j == 0 || first_head + j * step < a.heads;
      int const head = j == 0 ? first_head : min(first_head + j * step, a.heads - 1), in_k = head >= a.heads_q;
      RopeTensor<T> const& tensor = a.tensor[in_k];
      uint32_t const h = in_k ? head - a.heads_q : head;
      in[j] = tensor.in + (tensor.in_strides.template offset<Offset>(b, s, h) + element);
      out[j] = tensor.out + (tensor.out_strides.template offset<Offset>(b, s, h) + element);
    }
  }
};

// All loads are on their way at once, those that wait for a position id last; table entries serve all heads.
template <class Way, class T, class Table>
__device__ void rope_rotated_unit(RopeArguments<T, Table> const& a, typename Way::Offset b, uint32_t s, int first_head,
                                  int step, int element) {
  using Packet = RopePacket<T, Way::N, Way::kAligned>;
  RopePlaces<Way, T> const places(a, b, s, first_head, step, element);
  int const half_dim = a.rotary_dim / 2;
  Packet packet[Way::kHeads][Way::kPackets];
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
#pragma unroll
    for (int i = 0; i < Way::kPackets; ++i)
      packet[j][i] = *reinterpret_cast<Packet const*>(places.in[j] + i * half_dim);
  }
  RopeEntries<Way, Table> entries;
  entries.load(a, b, s, element);
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
    rope_rotate<Way, T>(packet[j], entries);
    if (!places.exists[j]) break;
#pragma unroll
    for (int i = 0; i < Way::kPackets; ++i) *reinterpret_cast<Packet*>(places.out[j] + i * half_dim) = packet[j][i];
  }
}

template <class Way, class T, class Table>
__device__ void rope_copied_unit(RopeArguments<T, Table> const& a, typename Way::Offset b, uint32_t s, int first_head,
                                 int step, int element) {
  using Packet = RopePacket<T, Way::kCopied, Way::kAligned>;
  RopePlaces<Way, T> const places(a, b, s, first_head, step, element);
  Packet packet[Way::kHeads];
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) packet[j] = *reinterpret_cast<Packet const*>(places.in[j]);
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
    if (places.exists[j]) *reinterpret_cast<Packet*>(places.out[j]) = packet[j];
  }
}

template <class Way, class T, class Table>
__device__ void rope_unit(RopeArguments<T, Table> const& a, typename Way::Offset b, uint32_t s, int first_head,
                          int step, int unit, RopeUnits<Way> const& units) {
  if (unit < units.rotated)
    rope_rotated_unit<Way>(a, b, s, first_head, step, units.first(unit));
  else
    rope_copied_unit<Way>(a, b, s, first_head, step, units.first(unit));
}

// Block: x over units, y over heads, z over tokens. Grid: x over tokens, y over heads, z over the batch; strided where
// it is smaller, which only the way without alignment allows for: loops cost registers.
template <class Way, class T, class Table>
__global__ void __launch_bounds__(kRopeThreads) rope_kernel(RopeArguments<T, Table> a) {
  RopeUnits<Way> const units(a.head_dim, a.rotary_dim);
  int const step = gridDim.y * blockDim.y, first_head = blockIdx.y * blockDim.y + threadIdx.y;
  uint32_t const s = blockIdx.x * blockDim.z + threadIdx.z;
  if (s >= a.seq) return;
  if constexpr (Way::kAligned) {
    if (first_head < a.heads) rope_unit<Way>(a, blockIdx.z, s, first_head, step, threadIdx.x, units);
  } else {
    for (uint64_t b = blockIdx.z; b < static_cast<uint64_t>(a.batch); b += gridDim.z) {
      for (int head = first_head; head < a.heads; head += Way::kHeads * step) {
        for (int unit = threadIdx.x; unit < units.count; unit += blockDim.x)
          rope_unit<Way>(a, b, s, head, step, unit, units);
      }
    }
  }
}

// A block covers what lies together in memory: heads of a token, or tokens of a head; in as many threads as a way
// wants, or twice as many where a token has so many heads.
template <class Way, class T, class Table>
struct RopeGrid {
  static constexpr int64_t kMaxGrid = 65535, kMaxDepth = 64, kMost = Way::kMost;
  int64_t slots, units, x, y, z;

  explicit RopeGrid(RopeArguments<T, Table> const& a)
      : slots(ceil_divide(a.heads, Way::kHeads)), units(RopeUnits<Way>(a.head_dim, a.rotary_dim).count) {
    x = std::min(std::max<int64_t>(units, 1), int64_t(kRopeThreads) / 2);
    y = std::min(slots, std::max<int64_t>(2 * kMost / x, 1));
    z = std::min({int64_t(a.seq), kMaxDepth, std::max<int64_t>(kMost / (x * y), 1)});
    if (!a.heads_first) return;
    z = std::min({int64_t(a.seq), kMaxDepth, std::max<int64_t>(kMost / x, 1)});
    y = std::min(slots, std::max<int64_t>(kMost / (x * z), 1));
  }
  bool covers(RopeArguments<T, Table> const& a) const {
    return units <= x && ceil_divide(slots, y) <= kMaxGrid && a.batch <= kMaxGrid;
  }
  cudaError_t launch(RopeArguments<T, Table> const& a, cudaStream_t stream) const {
    dim3 const block(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    dim3 const grid(static_cast<unsigned>(ceil_divide(a.seq, z)),
                    static_cast<unsigned>(std::min(ceil_divide(slots, y), kMaxGrid)),
                    static_cast<unsigned>(std::min(a.batch, kMaxGrid)));
    rope_kernel<Way><<<grid, block, 0, stream>>>(a);
    return cudaGetLastError();
  }
};

// Whether there are few tokens, and offsets of 32 bits reach all that a kernel reads and writes.
template <class T, class Table>
bool rope_is_small(RopeArguments<T, Table> const& a) {
  constexpr int64_t kManyElements = int64_t(1) << 22;
  auto reaches = [&](RopeStrides const& strides, int64_t heads) {
    int64_t const last = (a.batch - 1) * strides.batch + int64_t(a.seq - 1) * strides.seq + (heads - 1) * strides.head;
    return last + a.head_dim <= std::numeric_limits<uint32_t>::max();
  };
  for (RopeTensor<T> const& tensor : a.tensor) {
    int64_t const heads = &tensor == a.tensor ? a.heads_q : a.heads - a.heads_q;
    if (!reaches(tensor.in_strides, heads) || !reaches(tensor.out_strides, heads)) return false;
  }
  int64_t const tables = a.batch * a.table_step + a.table_rows * a.table_width;
  return tables <= std::numeric_limits<uint32_t>::max() && a.batch * a.seq * a.heads * a.head_dim < kManyElements;
}

template <RopeScale kScale, int kPackets, class T, class Table>
cudaError_t launch_rope_as(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  return a.table_width != uint32_t(a.rotary_dim) / 2
             ? RopeGrid<RopeWay<T, kScale, kPackets, true>, T, Table>(a).launch(a, stream)
             : RopeGrid<RopeWay<T, kScale, kPackets, false>, T, Table>(a).launch(a, stream);
}

template <RopeScale kScale, int kPackets, class T, class Table>
bool rope_covers(RopeArguments<T, Table> const& a) {
  return RopeGrid<RopeWay<T, kScale, kPackets, false>, T, Table>(a).covers(a);
}

template <int kPackets, class T, class Table>
cudaError_t launch_rope_pairs(RopeArguments<T, Table> const& a, bool wide, cudaStream_t stream) {
  if (wide && rope_is_small(a) && rope_covers<RopeScale::kFew, kPackets>(a)) {
    return a.position_ids ? launch_rope_as<RopeScale::kFewGathered, kPackets>(a, stream)
                          : launch_rope_as<RopeScale::kFew, kPackets>(a, stream);
  }
  return wide && rope_covers<RopeScale::kMany, kPackets>(a) ? launch_rope_as<RopeScale::kMany, kPackets>(a, stream)
                                                            : launch_rope_as<RopeScale::kAny, kPackets>(a, stream);
}

template <class T, class Table>
cudaError_t launch_rope(RopeArguments<T, Table> const& a, bool interleaved, cudaStream_t stream) {
  if (a.batch == 0 || a.seq == 0 || a.head_dim == 0 || a.heads == 0) return cudaSuccess;
  constexpr int kLanes = kAccessBytes / sizeof(T);
  bool wide = a.head_dim % kLanes == 0 && (interleaved ? a.rotary_dim : a.rotary_dim / 2) % kLanes == 0 &&
              aligned(a.cos) && aligned(a.sin);
  for (RopeTensor<T> const& tensor : a.tensor) {
    RopeStrides const& strides = tensor.in_strides;
    wide = wide && aligned(tensor.in) && aligned(tensor.out) && strides.batch % kLanes == 0 &&
           strides.seq % kLanes == 0 && strides.head % kLanes == 0;
  }
  return interleaved ? launch_rope_pairs<1>(a, wide, stream) : launch_rope_pairs<2>(a, wide, stream);
}

}  // namespace bridge
