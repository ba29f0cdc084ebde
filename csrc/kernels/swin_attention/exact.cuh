// Attention within windows of float32, and of whatever the tensor cores do not take: keys are staged in shared memory,
// a lane computes the logit of a key, and then sums channels.
#pragma once

#include "core/checked.h"
#include "kernels/swin_attention/arguments.cuh"

namespace bridge {

constexpr int kSwinExactWarps = 8;

// kChannels: of a lane. kQueries: of a warp, which share each value that is read.
template <class T, int kChannels_>
struct SwinExactTile {
  static constexpr int kChannels = kChannels_, kHeadDim = 32 * kChannels, kQueries = 4 / ((kChannels + 1) / 2);
  static constexpr int kRows = kSwinExactWarps * kQueries;  // queries of a block
  float q[kRows][kHeadDim];
  float k[32][kHeadDim + 1];  // rows lie in different banks
};

template <class T, int kChannels>
struct SwinExactQueries {
  using Tile = SwinExactTile<T, kChannels>;
  static constexpr int kQueries = Tile::kQueries;

  SwinArguments<T> const& a;
  Tile& shared;
  SwinPlace window;
  int head, first, warp, lane;  // first: of the block's queries
  float top[kQueries], total[kQueries] = {}, sum[kQueries][kChannels] = {}, factor[kQueries];

  __device__ T const* row(SwinTensor<T const> const& tensor, int token) const {
    MapPosition const at = position(a.windows, window, token_position(a.windows, token));
    SwinStrides const& step = tensor.strides;
    return tensor.data + window.image * step.image + at.y * step.y + at.x * step.x + head * step.head;
  }
  __device__ int query(int i) const { return first + warp * kQueries + i; }
  __device__ bool has(int i) const { return query(i) < a.windows.tokens(); }

  __device__ void load_queries() {
    float const scale = a.factor(head);
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      float squares = 0.f;
      top[i] = -INFINITY;
      T const* const from = has(i) ? row(a.q, query(i)) : nullptr;
      for (int channel = lane; channel < Tile::kHeadDim; channel += 32) {
        float const value = from && channel < a.head_dim ? to_float(from[channel]) : 0.f;
        shared.q[warp * kQueries + i][channel] = value;
        squares = fmaf(value, value, squares);
      }
      factor[i] = a.cosine() ? scale / fmaxf(sqrtf(sum_of_warp(squares)), kLeastNorm) : scale;
    }
  }

  // 32 keys, a row by a warp at a time; unit vectors where logits are cosines.
  __device__ void load_keys(int first_key) {
    for (int key = warp; key < 32; key += kSwinExactWarps) {
      bool const inside = first_key + key < a.windows.tokens();
      T const* const from = inside ? row(a.k, first_key + key) : nullptr;
      float squares = 0.f, value[kChannels];
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        int const channel = lane + 32 * j;
        value[j] = inside && channel < a.head_dim ? to_float(from[channel]) : 0.f;
        squares = fmaf(value[j], value[j], squares);
      }
      float const length = a.cosine() ? fmaxf(sqrtf(sum_of_warp(squares)), kLeastNorm) : 1.f;
#pragma unroll
      for (int j = 0; j < kChannels; ++j) shared.k[key][lane + 32 * j] = a.cosine() ? value[j] / length : value[j];
    }
  }

  // What is added to a logit of base 2.
  __device__ float added(int i, int key, int sides, int64_t mask) const {
    int64_t const tokens = a.windows.tokens(), pair = query(i) * tokens + key;
    float sum = 0.f;
    if (a.bias.data) sum += a.bias.at(head * tokens * tokens + pair);
    if (a.mask.data) sum += a.mask.at(mask * tokens * tokens + pair);
    bool const apart = sides && ((side_of(a.windows, query(i)) ^ side_of(a.windows, key)) & sides);
    return kLog2E * (sum + (apart ? a.shift_mask : 0.f));
  }

  __device__ void add(int first_key, int sides, int64_t mask) {
    int const tokens = a.windows.tokens(), key = first_key + lane;
    float weight[kQueries] = {};
    for (int channel = 0; channel < a.head_dim; ++channel) {
      float const value = shared.k[lane][channel];
#pragma unroll
      for (int i = 0; i < kQueries; ++i) weight[i] = fmaf(shared.q[warp * kQueries + i][channel], value, weight[i]);
    }
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      bool const counts = key < tokens && has(i);
      float const logit = counts ? fmaf(weight[i], factor[i], added(i, key, sides, mask)) : -INFINITY;
      float const next = fmaxf(top[i], max_of_warp(logit)), base = finite_top(next), scale = exp2f(top[i] - base);
      top[i] = next, weight[i] = exp2f(logit - base);
      total[i] = fmaf(total[i], scale, sum_of_warp(weight[i]));
#pragma unroll
      for (float& each : sum[i]) each *= scale;
    }
    int64_t const offset = row(a.v, min(key, tokens - 1)) - a.v.data;  // of this lane's key
    for (int n = 0; n < min(32, tokens - first_key); ++n) {
      T const* const from = a.v.data + __shfl_sync(~0u, offset, n);
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        int const channel = lane + 32 * j;
        float const value = channel < a.head_dim ? to_float(from[channel]) : 0.f;
#pragma unroll
        for (int i = 0; i < kQueries; ++i) sum[i][j] = fmaf(__shfl_sync(~0u, weight[i], n), value, sum[i][j]);
      }
    }
  }

  __device__ void write() const {
#pragma unroll
    for (int i = 0; i < kQueries; ++i) {
      if (!has(i)) continue;
      MapPosition const at = position(a.windows, window, token_position(a.windows, query(i)));
      SwinStrides const& step = a.out.strides;
      T* const to = a.out.data + window.image * step.image + at.y * step.y + at.x * step.x + head * step.head;
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        int const channel = lane + 32 * j;
        if (channel < a.head_dim) to[channel] = from_float<T>(sum[i][j] / total[i]);
      }
    }
  }
};

// One dimension of blocks: window, head, tile of queries.
template <class T, int kChannels>
__global__ void __launch_bounds__(32 * kSwinExactWarps) swin_attention_exact_kernel(SwinArguments<T> a) {
  using Queries = SwinExactQueries<T, kChannels>;
  __shared__ typename Queries::Tile shared;
  int const tokens = a.windows.tokens(), tiles = (tokens + Queries::Tile::kRows - 1) / Queries::Tile::kRows;
  int const tile = blockIdx.x % tiles, head = blockIdx.x / tiles % a.heads;
  int64_t const index = blockIdx.x / tiles / a.heads;
  SwinPlace const window = SwinPlace::of(a.windows, index);
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Queries work{a, shared, window, head, tile * Queries::Tile::kRows, warp, lane};
  int const sides = a.hidden_sides(window);
  int64_t const mask = a.mask.data ? index % a.masks : 0;
  work.load_queries();
  for (int first = 0; first < tokens; first += 32) {
    __syncthreads();
    work.load_keys(first);
    __syncthreads();
    work.add(first, sides, mask);
  }
  work.write();
}

template <int kChannels, class T>
cudaError_t launch_swin_exact_width(SwinArguments<T> const& a, cudaStream_t stream) {
  int64_t const tiles = ceil_divide(a.windows.tokens(), SwinExactTile<T, kChannels>::kRows);
  int64_t const blocks = (Size(a.all_windows()) * a.heads * tiles).value();
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  swin_attention_exact_kernel<T, kChannels><<<static_cast<unsigned>(blocks), 32 * kSwinExactWarps, 0, stream>>>(a);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_swin_attention_exact(SwinArguments<T> const& a, cudaStream_t stream) {
  return a.head_dim <= 32    ? launch_swin_exact_width<1>(a, stream)
         : a.head_dim <= 64  ? launch_swin_exact_width<2>(a, stream)
         : a.head_dim <= 128 ? launch_swin_exact_width<4>(a, stream)
                             : launch_swin_exact_width<8>(a, stream);
}

}  // namespace bridge
