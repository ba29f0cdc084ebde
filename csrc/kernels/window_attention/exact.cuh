// Attention by a warp for each query, for what no tiles are made of: sums of weights and values.
#pragma once

#include "kernels/window_attention/softmax.cuh"

namespace bridge {

constexpr int kExactWarps = 8, kExactChannels = kWindowAttentionMaxHeadDim / 32;

// A logit times log2(e), so that exp2 gives its weight.
template <class Arguments>
__device__ float logit(Arguments const& a, float product) {
  float const scaled = product * a.scale;
  return (a.softcap > 0.f ? a.softcap * tanhf(scaled / a.softcap) : scaled) * kLog2E;
}

// Of one query: the weights of 32 keys at a time, a lane each, and then the sums of their values, channels by lane.
// Arguments say where a key and its value lie: null, and the result is NaN, where that is not known.
template <class T, class Arguments = WindowAttentionArguments<T>>
struct ExactQuery {
  Arguments const& a;
  float const* q;  // in shared memory
  int batch, group, lane;
  float top = -INFINITY, total = 0.f, sum[kExactChannels] = {};

  // By sums of every kSums-th channel: they round less than one sum of all would, and none waits for another.
  __device__ float dot(int key) const {
    constexpr int kSums = 4;
    T const* const row = a.key(batch, group, key);
    if (!row) return NAN;
    float part[kSums] = {};
    int channel = 0;
#pragma unroll 1  // more loads at once take registers of which other warps are made
    for (; channel + kSums <= a.head_dim; channel += kSums) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) part[i] = fmaf(q[channel + i], to_float(row[channel + i]), part[i]);
    }
    for (; channel < a.head_dim; ++channel) part[0] = fmaf(q[channel], to_float(row[channel]), part[0]);
#pragma unroll
    for (int apart = kSums / 2; apart > 0; apart /= 2) {
#pragma unroll
      for (int i = 0; i < apart; ++i) part[i] += part[i + apart];
    }
    return part[0];
  }

  __device__ void rescale(float factor) {
    total *= factor;
#pragma unroll
    for (float& each : sum) each *= factor;
  }

  // Keys first to first + 31, as far as they are before `end`.
  __device__ void add(int first, int end) {
    int const key = first + lane;
    float const mine = key < end ? logit(a, dot(key)) : -INFINITY;
    float const next = fmaxf(top, max_of_warp(mine));
    rescale(exp2f(top - finite_top(next)));
    top = next;
    float const weight = exp2f(mine - finite_top(next));
    total += sum_of_warp(weight);
    for (int i = 0; i < min(32, end - first); ++i) {
      float const share = __shfl_sync(~0u, weight, i);
      T const* const row = a.value(batch, group, first + i);
#pragma unroll
      for (int j = 0; j < kExactChannels; ++j) {
        int const channel = lane + 32 * j;
        if (row && channel < a.head_dim) sum[j] = fmaf(share, to_float(row[channel]), sum[j]);
      }
    }
  }

  __device__ void add_sink(float sink) {
    float const next = fmaxf(top, sink);
    rescale(exp2f(top - finite_top(next)));
    total += exp2f(sink - finite_top(next));
  }

  __device__ void write(T* row) const {
    float const factor = total == 0.f ? 0.f : 1.f / total;
#pragma unroll
    for (int j = 0; j < kExactChannels; ++j) {
      int const channel = lane + 32 * j;
      if (channel < a.head_dim) row[channel] = from_float<T>(total == 0.f ? 0.f : sum[j] * factor);
    }
  }
};

// Computes the query of this warp: add(its work, what it sees, batch, head, query) is to add keys.
template <class T, class Arguments, class Add>
__device__ void compute_exactly(Arguments const& a, Add add) {
  __shared__ float queries[kExactWarps][kWindowAttentionMaxHeadDim];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t const row = int64_t(blockIdx.x) * kExactWarps + warp;
  if (row >= a.rows()) return;
  int const query = static_cast<int>(row % a.queries), head = static_cast<int>(row / a.queries % a.heads);
  int const batch = static_cast<int>(row / a.queries / a.heads);
  T const* const q = a.q.row(batch, head, query);
  for (int channel = lane; channel < a.head_dim; channel += 32) queries[warp][channel] = to_float(q[channel]);
  __syncwarp();
  KeyInterval const seen = seen_keys(a, batch, query);
  ExactQuery<T, Arguments> work{a, queries[warp], batch, head / a.ratio(), lane};
  add(work, seen, batch, head, query);
  work.add_sink(sink_logit(a, head));
  work.write(a.out.row(batch, head, query));
}

template <class Kernel, class Arguments>
cudaError_t launch_exact(Kernel kernel, Arguments const& a, cudaStream_t stream) {
  int64_t const blocks = ceil_divide(a.rows(), kExactWarps);
  if (blocks == 0) return cudaSuccess;
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  kernel<<<static_cast<unsigned>(blocks), 32 * kExactWarps, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace bridge
