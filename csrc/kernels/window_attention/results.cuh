// Where the tensor-core kernels write, and one result of several parts of the keys.
#pragma once

#include "kernels/window_attention/exact.cuh"
#include "kernels/window_attention/rows.cuh"
#include "kernels/window_attention/softmax.cuh"

namespace bridge {

// Two rows of sums as a part; row(half) is the first's or second's place in the tile of rows.
template <int kColumns, class Rows, class Row>
__device__ void write_part(Rows const& rows, AttentionParts const& parts, SoftmaxRows const& softmax,
                           float const (&sum)[kColumns][4], Row row) {
  int const column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!rows.has(row(half))) continue;
    int64_t const place = rows.part_index(row(half));
    if (column == 0) parts.states[place] = {softmax.top[half], softmax.total[half]};
    if (softmax.total[half] == 0.f) continue;
    float* const to = parts.sums + place * rows.a.head_dim + column;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (8 * i < rows.a.head_dim) *reinterpret_cast<float2*>(to + 8 * i) = {sum[i][2 * half], sum[i][2 * half + 1]};
    }
  }
}

// Two rows of results.
template <int kColumns, class Rows, class Row>
__device__ void write_rows(Rows const& rows, SoftmaxRows const& softmax, float const (&sum)[kColumns][4], Row row) {
  using T = typename Rows::Element;
  constexpr int kInChunk = kAccessBytes / sizeof(T);
  static_assert(kInChunk == 8 && kColumns % 4 == 0);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float const factor = softmax.divisor(half, sink_logit(rows.a, rows.head(row(half))));
    T* const to = rows.out(row(half));
    bool const writes = rows.has(row(half));
#pragma unroll
    for (int i = 0; i < kColumns; i += 4) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        word[j] = pack_two<T>(sum[i + j][2 * half] * factor, sum[i + j][2 * half + 1] * factor);
      transpose_quad(word);
      int const channel = (i + threadIdx.x % 4) * kInChunk;
      if (writes && channel < rows.a.head_dim)
        *reinterpret_cast<uint4*>(to + channel) = {word[0], word[1], word[2], word[3]};
    }
  }
}

// Some channels of one row of several parts, by a warp: 32 kColumns channels from `first` on, by lane. What many parts
// have is on its way at once.
template <int kColumns>
struct CombinedRow {
  static constexpr int kAhead = 32 / kColumns;  // parts
  int first;
  float top = -INFINITY, total = 0.f, sum[kColumns] = {};

  // Part i has states[i * step] and sums[i * step * width]; none of the latter where its total is 0.
  __device__ CombinedRow(float2 const* states, float const* sums, int count, int64_t step, int width, int first = 0)
      : first(first + threadIdx.x % 32) {
    int const lane = threadIdx.x % 32;
    for (int part = lane; part < count; part += 32) top = fmaxf(top, states[part * step].x);
    top = max_of_warp(top);
    for (int group = 0; group < count; group += 32) {
      float2 const state = group + lane < count ? states[(group + lane) * step] : float2{-INFINITY, 0.f};
      float const own = exp2_fast(state.x - finite_top(top));
      unsigned const there = __ballot_sync(~0u, state.y != 0.f);
      if (state.y != 0.f) total += state.y * own;
      add(sums + group * step * width, step * width, width, own, there, count - group);
    }
    total = sum_of_warp(total);
  }

  template <class T>
  __device__ void write(T* to, int head_dim, float sink) const {
    float const base = finite_top(fmaxf(top, sink)), factor = exp2_fast(top - base);
    float const all = total * factor + exp2_fast(sink - base);
    each(head_dim,
         [&](int channel, float value) { to[channel] = from_float<T>(all == 0.f ? 0.f : value * (factor / all)); });
  }
  __device__ void write_part(float* to, float2* state, int head_dim) const {
    each(head_dim, [&](int channel, float value) { to[channel] = value; });
    if (threadIdx.x % 32 == 0) *state = {top, total};
  }

 private:
  // Of up to 32 parts, those of the bits of `there`; own: the factor of part `lane`.
  __device__ void add(float const* sums, int64_t apart, int width, float own, unsigned there, int count) {
    for (int part = 0; part < min(count, 32); part += kAhead) {
      float value[kAhead][kColumns];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        float const* const from = sums + (part + i) * apart + first;
        bool const reads = there >> (part + i) & 1;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) value[i][j] = reads && first + 32 * j < width ? from[32 * j] : 0.f;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        float const factor = __shfl_sync(~0u, own, part + i);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          if (there >> (part + i) & 1) sum[j] = fmaf(value[i][j], factor, sum[j]);
        }
      }
    }
  }

  template <class Visit>
  __device__ void each(int head_dim, Visit visit) const {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      if (first + 32 * j < head_dim) visit(first + 32 * j, sum[j]);
    }
  }
};

constexpr int kCombineWarps = 4;

// Rows in x, in y 32 of their channels each: few rows are to keep many warps busy.
template <class T>
__global__ void __launch_bounds__(32 * kCombineWarps) window_attention_combine_kernel(WindowAttentionArguments<T> a,
                                                                                      AttentionParts parts) {
  int64_t const all = a.rows(), row = int64_t(blockIdx.x) * kCombineWarps + threadIdx.x / 32;
  if (row >= all) return;
  int const query = static_cast<int>(row % a.queries), head = static_cast<int>(row / a.queries % a.heads);
  CombinedRow<1> const combined(parts.states + row, parts.sums + row * a.head_dim, parts.count, all, a.head_dim,
                                32 * static_cast<int>(blockIdx.y));
  T* const to = a.out.row(static_cast<int>(row / a.queries / a.heads), head, query);
  combined.write(to, a.head_dim, sink_logit(a, head));
}

template <class T>
cudaError_t launch_window_attention_combine(WindowAttentionArguments<T> const& a, AttentionParts const& parts,
                                            cudaStream_t stream) {
  int64_t const blocks = ceil_divide(a.rows(), kCombineWarps);
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  dim3 const grid(static_cast<unsigned>(blocks), static_cast<unsigned>(ceil_divide(a.head_dim, 32)));
  window_attention_combine_kernel<<<grid, 32 * kCombineWarps, 0, stream>>>(a, parts);
  return cudaGetLastError();
}

}  // namespace bridge
