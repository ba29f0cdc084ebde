// Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864) of queries and keys in one launch.
#pragma once

#include <algorithm>
#include <limits>

#include "vec.cuh"

namespace bridge {

// q, q_out: [batch, seq, heads_q, head_dim], or heads before seq when heads_first; k likewise with heads_k.
// cos, sin: [table_batch, table_rows, table_width]; position_ids: [ids_batch, seq] or null.
// table_width is rotary_dim / 2, or rotary_dim with a value for each element.
template <class T, class Table>
struct RopeArguments {
  T const* q;
  T const* k;
  T* q_out;
  T* k_out;
  Table const* cos;
  Table const* sin;
  void const* position_ids;
  bool wide_ids;  // int64, else int32
  bool heads_first;
  int64_t batch, seq, head_dim, rotary_dim;
  int64_t heads_q, heads_k;
  int64_t table_batch, table_rows, table_width, ids_batch;
};

// Row of the tables for one token, or -1 where its position id is outside them.
template <class T, class Table>
__device__ int64_t rope_table_row(RopeArguments<T, Table> const& a, int64_t b, int64_t s) {
  if (!a.position_ids) return (a.table_batch == 1 ? 0 : b * a.table_rows) + s;
  int64_t const i = (a.ids_batch == 1 ? 0 : b * a.seq) + s;
  int64_t const id = a.wide_ids ? static_cast<int64_t const*>(a.position_ids)[i]
                                : int64_t(static_cast<int32_t const*>(a.position_ids)[i]);
  return id >= 0 && id < a.table_rows ? id : -1;
}

// cos or sin of lanes that belong together: [lanes] values from element `first` on.
template <class Table, int N>
__device__ void rope_load_table(Table const* row, int64_t first, float (&value)[N]) {
  if (!row) {
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = nanf("");
    return;
  }
  auto const packet = *reinterpret_cast<Vec<Table, N> const*>(row + first);
#pragma unroll
  for (int i = 0; i < N; ++i) value[i] = to_float(packet.lane[i]);
}

// Rotates N pairs (x[i], y[i]): x' = x cos_x - y sin_x, y' = y cos_y + x sin_y.
template <class T, class Table, int N, bool kInterleaved>
__device__ void rope_rotate(RopeArguments<T, Table> const& a, T const* in, T* out, Table const* cos, Table const* sin,
                            int64_t first_pair) {
  using Packet = Vec<T, N>;
  int64_t const half_dim = a.rotary_dim / 2;
  bool const full = a.table_width != half_dim;
  int64_t const lower = kInterleaved ? 2 * first_pair : first_pair;
  int64_t const upper = kInterleaved ? lower + N : lower + half_dim;
  Packet const low = *reinterpret_cast<Packet const*>(in + lower);
  Packet const high = *reinterpret_cast<Packet const*>(in + upper);

  float cos_low[N], sin_low[N], cos_high[N], sin_high[N];
  if (full) {
    rope_load_table(cos, lower, cos_low), rope_load_table(sin, lower, sin_low);
    rope_load_table(cos, upper, cos_high), rope_load_table(sin, upper, sin_high);
  } else {
    rope_load_table(cos, first_pair, cos_low), rope_load_table(sin, first_pair, sin_low);
  }

  Packet new_low, new_high;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    // Interleaved pairs lie side by side: the pair (2 i, 2 i + 1) of the 2 N elements in low and high.
    int const x = kInterleaved ? 2 * i : i;
    int const y = kInterleaved ? 2 * i + 1 : i + N;
    auto element = [&](int e) { return to_float(e < N ? low.lane[e % N] : high.lane[e % N]); };
    auto table = [&](float const(&lower_values)[N], float const(&upper_values)[N], int e) {
      return full ? (e < N ? lower_values[e % N] : upper_values[e % N]) : lower_values[i];
    };
    float const first = element(x), second = element(y);
    T const rotated_first = from_float<T>(first * table(cos_low, cos_high, x) - second * table(sin_low, sin_high, x));
    T const rotated_second = from_float<T>(second * table(cos_low, cos_high, y) + first * table(sin_low, sin_high, y));
    (x < N ? new_low : new_high).lane[x % N] = rotated_first;
    (y < N ? new_low : new_high).lane[y % N] = rotated_second;
  }
  *reinterpret_cast<Packet*>(out + lower) = new_low;
  *reinterpret_cast<Packet*>(out + upper) = new_high;
}

// A block takes tokens; its threads take (head, N pairs) of the rotated part and (head, N elements) of the rest.
template <class T, class Table, int N, bool kInterleaved>
__global__ void rope_kernel(RopeArguments<T, Table> a) {
  int const rotated = static_cast<int>(a.rotary_dim / 2 / N);
  int const units = rotated + static_cast<int>((a.head_dim - a.rotary_dim) / N);
  int64_t const items = (a.heads_q + a.heads_k) * units;
  for (int64_t token = blockIdx.x; token < a.batch * a.seq; token += gridDim.x) {
    int64_t const b = token / a.seq, s = token % a.seq;
    int64_t const row = rope_table_row(a, b, s);
    Table const* cos = row < 0 ? nullptr : a.cos + row * a.table_width;
    Table const* sin = row < 0 ? nullptr : a.sin + row * a.table_width;
    for (int64_t item = threadIdx.x; item < items; item += blockDim.x) {
      int64_t const head = item / units;
      int const unit = static_cast<int>(item % units);
      bool const is_q = head < a.heads_q;
      int64_t const heads = is_q ? a.heads_q : a.heads_k;
      int64_t const h = is_q ? head : head - a.heads_q;
      int64_t const index = a.heads_first ? (b * heads + h) * a.seq + s : (b * a.seq + s) * heads + h;
      T const* in = (is_q ? a.q : a.k) + index * a.head_dim;
      T* out = (is_q ? a.q_out : a.k_out) + index * a.head_dim;
      if (unit < rotated) {
        rope_rotate<T, Table, N, kInterleaved>(a, in, out, cos, sin, int64_t(unit) * N);
      } else {
        int64_t const at = a.rotary_dim + int64_t(unit - rotated) * N;
        *reinterpret_cast<Vec<T, N>*>(out + at) = *reinterpret_cast<Vec<T, N> const*>(in + at);
      }
    }
  }
}

template <class T, class Table>
cudaError_t launch_rope(RopeArguments<T, Table> const& a, bool interleaved, cudaStream_t stream) {
  int64_t const tokens = a.batch * a.seq;
  if (tokens == 0 || a.head_dim == 0 || a.heads_q + a.heads_k == 0) return cudaSuccess;
  constexpr int kLanes = kAccessBytes / sizeof(T);
  bool wide = a.head_dim % kLanes == 0 && (a.rotary_dim / 2) % kLanes == 0;
  for (void const* pointer : {(void const*)a.q, (void const*)a.k, (void const*)a.q_out, (void const*)a.k_out,
                              (void const*)a.cos, (void const*)a.sin}) {
    wide = wide && aligned(pointer);
  }
  auto kernel = wide ? (interleaved ? rope_kernel<T, Table, kLanes, true> : rope_kernel<T, Table, kLanes, false>)
                     : (interleaved ? rope_kernel<T, Table, 1, true> : rope_kernel<T, Table, 1, false>);
  int64_t const lanes = wide ? kLanes : 1;
  int64_t const items = (a.heads_q + a.heads_k) * ((a.rotary_dim / 2 + a.head_dim - a.rotary_dim) / lanes);
  constexpr int64_t kWarp = 32, kMaxThreads = 256;
  auto const threads = static_cast<unsigned>(std::min(ceil_divide(items, kWarp) * kWarp, kMaxThreads));
  auto const blocks = static_cast<unsigned>(std::min<int64_t>(tokens, std::numeric_limits<int32_t>::max()));
  kernel<<<blocks, threads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
