// The kernel of rope, for every way.
#pragma once

#include "kernels/attention/rope_way.cuh"

namespace bridge {

template <class T, class Table>
__device__ int64_t rope_position(RopeArguments<T, Table> const& a, uint64_t b, uint32_t s) {
  uint64_t const i = b * a.ids_step + s;
  return a.wide_ids ? static_cast<int64_t const*>(a.position_ids)[i]
                    : int64_t(static_cast<int32_t const*>(a.position_ids)[i]);
}

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
  T const* in[Way::kHeads];  // each [head_dim] from the element on
  T* out[Way::kHeads];       // likewise
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
  wait_for_kernel_before();
  let_next_kernel_begin();
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

}  // namespace bridge
