// Attention to a paged cache of float32, and of whatever the tensor cores do not take. Warps share the keys of a query,
// and the lanes of a warp the channels.
#pragma once

#include "kernels/paged_window_attention/places.cuh"
#include "kernels/window_attention/results.cuh"

namespace bridge {

// Of kCount values of each lane, the sum over all lanes of value lane / (32 / kCount).
template <int kCount>
__device__ float sums_of_warp(float (&value)[kCount]) {
  int apart = 16;
#pragma unroll
  for (int left = kCount / 2; left > 0; left /= 2, apart /= 2) {
    bool const upper = threadIdx.x & apart;
#pragma unroll
    for (int i = 0; i < left; ++i) {
      float const given = upper ? value[i] : value[i + left], kept = upper ? value[i + left] : value[i];
      value[i] = kept + __shfl_xor_sync(~0u, given, apart);
    }
  }
#pragma unroll
  for (; apart > 0; apart /= 2) value[0] += __shfl_xor_sync(~0u, value[0], apart);
  return value[0];
}

// A query and some of its keys, kAtOnce at a time; channels lane + 32 i.
template <class T, int kChannels>
struct PagedExactQuery {
  static constexpr int kAtOnce = 32 / kChannels, kLanes = 32 / kAtOnce;  // the latter of one key's weight

  PagedArguments<T> const& a;
  T const *k, *v;  // of this lane's first channel, at place 0
  int batch, lane = threadIdx.x % 32;
  float q[kChannels], top = -INFINITY, total = 0.f, sum[kChannels] = {};

  __device__ PagedExactQuery(PagedArguments<T> const& a, int batch, int head, int query) : a(a), batch(batch) {
    int const group = head / a.ratio();
    k = a.k.data + group * a.k.strides.head + lane, v = a.v.data + group * a.v.strides.head + lane;
    T const* const from = a.q.row(batch, head, query) + lane;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) q[i] = inside(i) ? to_float(from[32 * i]) : 0.f;
  }

  // The places of 32 keys are looked up at once, and the next ones' before these are used.
  __device__ void walk(KeyInterval keys) {
    PlaceRequest request;
    request.ask(a, batch, keys.begin + lane, keys.begin + lane < keys.end);
    for (int first = keys.begin; first < keys.end; first += 32) {
      KeyPlace const place = request.place(a);
      int const next = first + 32 + lane;
      request.ask(a, batch, next, next < keys.end);
      for (int i = 0; i < min(32, keys.end - first); i += kAtOnce) add(place, i, keys.end - first);
    }
#pragma unroll
    for (int apart = 16; apart >= kLanes; apart /= 2) total += __shfl_xor_sync(~0u, total, apart);
  }

 private:
  __device__ bool inside(int i) const { return lane + 32 * i < a.head_dim; }

  // Keys first to first + kAtOnce - 1 of those whose places the lanes have, as far as they are before `end`.
  __device__ void add(KeyPlace const& place, int first, int end) {
    float key[kAtOnce][kChannels], value[kAtOnce][kChannels], product[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      load(key[i], k, __shfl_sync(~0u, place.k, first + i));
      load(value[i], v, __shfl_sync(~0u, place.v, first + i));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      product[i] = q[0] * key[i][0];
#pragma unroll
      for (int j = 1; j < kChannels; ++j) product[i] = fmaf(q[j], key[i][j], product[i]);
    }
    float const weight = weigh(sums_of_warp(product), first + lane / kLanes, place, end);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      float const share = __shfl_sync(~0u, weight, i * kLanes);
#pragma unroll
      for (int j = 0; j < kChannels; ++j) sum[j] = fmaf(share, value[i][j], sum[j]);
    }
  }

  __device__ void load(float (&row)[kChannels], T const* from, int64_t place) const {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) row[i] = place >= 0 && inside(i) ? to_float(from[place + 32 * i]) : 0.f;
  }

  // From a product to the weight of a key; earlier sums are rescaled.
  __device__ float weigh(float product, int key, KeyPlace const& place, int end) {
    bool const missing = __shfl_sync(~0u, place.k, key) == kMissing;
    float const mine = key >= end ? -INFINITY : missing ? NAN : logit(a, product);
    float next = fmaxf(top, mine);
#pragma unroll
    for (int apart = 16; apart >= kLanes; apart /= 2) next = fmaxf(next, __shfl_xor_sync(~0u, next, apart));
    float const base = finite_top(next), factor = exp2f(top - base), weight = exp2f(mine - base);
    top = next;
    total = fmaf(total, factor, weight);
#pragma unroll
    for (float& each : sum) each *= factor;
    return weight;
  }
};

// A block has kExactWarps / shares rows, of each of which `shares` warps have some keys each; and of them other blocks
// have others, where there are more parts than one.
template <class T, int kChannels>
__global__ void __launch_bounds__(32 * kExactWarps) paged_window_attention_exact_kernel(PagedArguments<T> a,
                                                                                        AttentionParts parts,
                                                                                        int shares) {
  constexpr int kWidth = 32 * kChannels;
  __shared__ float2 states[kExactWarps];
  __shared__ float sums[kExactWarps][kWidth];
  let_next_kernel_begin();
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32, share = warp % shares;
  int const in_block = kExactWarps / shares, split = static_cast<int>(blockIdx.y);
  int64_t const row = least(int64_t(blockIdx.x) * in_block + warp / shares, a.rows() - 1);
  int const query = static_cast<int>(row % a.queries), head = static_cast<int>(row / a.queries % a.heads);
  int const batch = static_cast<int>(row / a.queries / a.heads);
  PagedExactQuery<T, kChannels> work(a, batch, head, query);
  constexpr int kAtOnce = PagedExactQuery<T, kChannels>::kAtOnce;
  KeyInterval const seen = seen_keys(a, batch, query);
  KeyTiles const mine(seen, kAtOnce, split * shares + share, parts.count * shares);
  work.walk({seen.begin + mine.begin * kAtOnce, min(seen.begin + mine.end * kAtOnce, seen.end)});
  if (lane == 0) states[warp] = {work.top, a.fits(batch) ? work.total : NAN};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) sums[warp][lane + 32 * i] = work.sum[i];
  __syncthreads();
  if (share != 0 || int64_t(blockIdx.x) * in_block + warp / shares != row) return;
  CombinedRow<kChannels> const all(states + warp, sums[warp], shares, 1, kWidth);
  if (parts.count == 1) return all.write(a.out.row(batch, head, query), a.head_dim, sink_logit(a, head));
  int64_t const place = split * a.rows() + row;
  all.write_part(parts.sums + place * a.head_dim, parts.states + place, a.head_dim);
}

}  // namespace bridge
