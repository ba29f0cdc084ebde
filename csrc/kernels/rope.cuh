// Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864) of queries and keys in one launch.
#pragma once

#include <algorithm>
#include <limits>

#include "vec.cuh"

namespace bridge {

// Elements from one batch element, token and head to the next; head_dim itself is dense.
struct RopeStrides {
  int64_t batch;
  uint32_t seq, head;

  __device__ int64_t offset(int64_t b, uint32_t s, uint32_t h) const {
    return b * batch + static_cast<int64_t>(uint64_t(s) * seq + uint64_t(h) * head);
  }
};

// q or k, before and after: [batch, seq, heads, head_dim], or heads before seq.
template <class T>
struct RopeTensor {
  T const* in;
  T* out;
  RopeStrides in_strides, out_strides;
};

// cos, sin: [table_batch, table_rows, table_width]; position_ids: [ids_batch, seq] or null.
// table_width is rotary_dim / 2, or rotary_dim with a value for each element.
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
  int64_t table_batch, table_rows, table_width, ids_batch;
};

// Row of the tables for one token, or -1 where its position id is outside them.
template <class T, class Table>
__device__ int64_t rope_table_row(RopeArguments<T, Table> const& a, int64_t b, uint32_t s) {
  if (!a.position_ids) return (a.table_batch == 1 ? 0 : b * a.table_rows) + s;
  int64_t const i = (a.ids_batch == 1 ? 0 : b * a.seq) + s;
  int64_t const id = a.wide_ids ? static_cast<int64_t const*>(a.position_ids)[i]
                                : int64_t(static_cast<int32_t const*>(a.position_ids)[i]);
  return id >= 0 && id < a.table_rows ? id : -1;
}

constexpr int kRopeThreads = 512;

// N elements that are read and written at once: in one access where they are aligned.
template <class T, int N, bool kAligned>
struct alignas(kAligned ? alignof(Vec<T, N>) : alignof(T)) RopePacket {
  T lane[N];
};

// How a kernel is made. kPackets: 2 for half-split pairs, whose two elements lie in two packets of N, half of
// rotary_dim apart; 1 for interleaved ones, which lie side by side in one. kFull: tables have a value for each element.
// kHeads: of a thread.
template <int kLanes, bool kAligned_, int kPackets_, bool kFull_, int kHeads_>
struct RopeWay {
  static constexpr int N = kLanes, kPackets = kPackets_, kHeads = kHeads_;
  static constexpr bool kAligned = kAligned_, kFull = kFull_, kInterleaved = kPackets == 1;
  // Table entries for a packet: interleaved pairs share those of a table of half width.
  static constexpr int kEntries = kInterleaved && !kFull ? N / 2 : N, kTables = kFull ? kPackets : 1;
  static constexpr int kCopied = kAligned ? N : 1;  // elements that a thread copies where nothing is rotated
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

  template <class T>
  __device__ void load(RopeArguments<T, Table> const& a, int64_t b, uint32_t s, int first) {
    int64_t const row = rope_table_row(a, b, s);
    known = row >= 0;
    if (!known) return;
    int64_t const at = row * a.table_width + (Way::kInterleaved && !Way::kFull ? first / 2 : first);
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

// One unit of a thread's heads, `step` apart: their loads are on their way at once, and table entries serve them all.
template <class Way, class T, class Table>
__device__ void rope_unit(RopeArguments<T, Table> const& a, int64_t b, uint32_t s, int first_head, int step, int unit,
                          RopeUnits<Way> const& units) {
  using Packet = RopePacket<T, Way::N, Way::kAligned>;
  constexpr int kLast = Way::kPackets - 1;
  bool const rotates = unit < units.rotated;
  int const half_dim = a.rotary_dim / 2, first = units.first(unit);
  RopeEntries<Way, Table> entries;
  if (rotates) entries.load(a, b, s, first);
  Packet packet[Way::kHeads][Way::kPackets];
  T* out[Way::kHeads];
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
    int const head = min(first_head + j * step, a.heads - 1), in_k = head >= a.heads_q;
    RopeTensor<T> const& tensor = a.tensor[in_k];
    uint32_t const h = in_k ? head - a.heads_q : head;
    T const* const in = tensor.in + tensor.in_strides.offset(b, s, h) + first;
    out[j] = tensor.out + tensor.out_strides.offset(b, s, h) + first;
    if (Way::kAligned || rotates)
      packet[j][0] = *reinterpret_cast<Packet const*>(in);
    else
      packet[j][0].lane[0] = *in;
    if (kLast && rotates) packet[j][kLast] = *reinterpret_cast<Packet const*>(in + half_dim);
  }
#pragma unroll
  for (int j = 0; j < Way::kHeads; ++j) {
    if (rotates) rope_rotate<Way, T>(packet[j], entries);
    if (first_head + j * step >= a.heads) break;
    if (Way::kAligned || rotates)
      *reinterpret_cast<Packet*>(out[j]) = packet[j][0];
    else
      *out[j] = packet[j][0].lane[0];
    if (kLast && rotates) *reinterpret_cast<Packet*>(out[j] + half_dim) = packet[j][kLast];
  }
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
    for (int64_t b = blockIdx.z; b < a.batch; b += gridDim.z) {
      for (int head = first_head; head < a.heads; head += Way::kHeads * step) {
        for (int unit = threadIdx.x; unit < units.count; unit += blockDim.x)
          rope_unit<Way>(a, b, s, head, step, unit, units);
      }
    }
  }
}

// A block covers what lies together in memory: all heads of a token, or many tokens of a head.
template <class Way, class T, class Table>
struct RopeGrid {
  static constexpr int64_t kMaxGrid = 65535, kMaxDepth = 64, kMost = kRopeThreads / 2;
  int64_t slots, units, x, y, z;

  explicit RopeGrid(RopeArguments<T, Table> const& a)
      : slots(ceil_divide(a.heads, Way::kHeads)), units(RopeUnits<Way>(a.head_dim, a.rotary_dim).count) {
    x = std::min(std::max<int64_t>(units, 1), kMost);
    y = std::min(slots, kRopeThreads / x);
    z = std::min({int64_t(a.seq), kMaxDepth, std::max<int64_t>(kMost / (x * y), 1)});
    if (!a.heads_first) return;
    z = std::min({int64_t(a.seq), kMaxDepth, kMost / x});
    y = std::min(slots, kMost / (x * z));
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

// Two heads a thread where there are tokens enough to fill a GPU.
template <int N, bool kAligned, int kPackets, class T, class Table>
cudaError_t launch_rope_lanes(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  constexpr int64_t kManyElements = int64_t(1) << 22;
  bool const many = kAligned && a.batch * a.seq * a.heads * a.head_dim >= kManyElements;
  bool const full = a.table_width != a.rotary_dim / 2;
  if constexpr (kAligned) {
    if (many)
      return full ? RopeGrid<RopeWay<N, kAligned, kPackets, true, 2>, T, Table>(a).launch(a, stream)
                  : RopeGrid<RopeWay<N, kAligned, kPackets, false, 2>, T, Table>(a).launch(a, stream);
  }
  return full ? RopeGrid<RopeWay<N, kAligned, kPackets, true, 1>, T, Table>(a).launch(a, stream)
              : RopeGrid<RopeWay<N, kAligned, kPackets, false, 1>, T, Table>(a).launch(a, stream);
}

template <class T, class Table>
cudaError_t launch_rope(RopeArguments<T, Table> const& a, bool interleaved, cudaStream_t stream) {
  if (a.batch == 0 || a.seq == 0 || a.head_dim == 0 || a.heads == 0) return cudaSuccess;
  constexpr int kLanes = kAccessBytes / sizeof(T);
  bool wide = a.head_dim % kLanes == 0 && (interleaved ? a.rotary_dim : a.rotary_dim / 2) % kLanes == 0 &&
              aligned(a.cos) && aligned(a.sin);
  wide = wide && RopeGrid<RopeWay<kLanes, true, 2, false, 1>, T, Table>(a).covers(a) &&
         RopeGrid<RopeWay<kLanes, true, 1, false, 1>, T, Table>(a).covers(a);
  for (RopeTensor<T> const& tensor : a.tensor) {
    RopeStrides const& strides = tensor.in_strides;
    wide = wide && aligned(tensor.in) && aligned(tensor.out) && strides.batch % kLanes == 0 &&
           strides.seq % kLanes == 0 && strides.head % kLanes == 0;
  }
  if (interleaved)
    return wide ? launch_rope_lanes<kLanes, true, 1>(a, stream) : launch_rope_lanes<2, false, 1>(a, stream);
  return wide ? launch_rope_lanes<kLanes, true, 2>(a, stream) : launch_rope_lanes<1, false, 2>(a, stream);
}

}  // namespace bridge
