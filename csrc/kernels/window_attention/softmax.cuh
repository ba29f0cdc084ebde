// Softmax of logits as tensor cores leave them, tile after tile (Milakov and Gimelshein,
// https://arxiv.org/abs/1805.02867; Dao, https://arxiv.org/abs/2307.08691, section 3.1).
//
// A thread holds two rows of 16, 8 apart; of each, 2 of every 8 columns: sum[column / 8][2 row + column % 2]. The four
// threads of a row are neighbours.
#pragma once

#include "kernels/window_attention/arguments.cuh"
#include "kernels/window_attention/instructions.cuh"

namespace bridge {

constexpr float kLog2E = 1.4426950408889634f;

// tanh by one exponential: its absolute error is that of float32, which tanh.approx's is not.
__device__ inline float tanh_fast(float x) { return 1.f - __fdividef(2.f, exp2_fast(2 * kLog2E * x) + 1.f); }

template <class T>
__device__ float sink_logit(WindowAttentionArguments<T> const& a, int head) {
  if (!a.sinks) return -INFINITY;
  float const sink =
      a.float_sinks ? static_cast<float const*>(a.sinks)[head] : to_float(static_cast<T const*>(a.sinks)[head]);
  return sink * kLog2E;
}

// exp2(x - top): what is subtracted where all are -inf is 0, and not -inf.
__device__ inline float finite_top(float top) { return top == -INFINITY ? 0.f : top; }

__device__ inline float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ inline float sum_of_row(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

template <class T>
__device__ uint32_t pack_two(float a, float b);
template <>
__device__ inline uint32_t pack_two<half>(float a, float b) {
  __half2 const pair = __floats2half2_rn(a, b);
  return reinterpret_cast<uint32_t const&>(pair);
}
template <>
__device__ inline uint32_t pack_two<bfloat16>(float a, float b) {
  __nv_bfloat162 const pair = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<uint32_t const&>(pair);
}

// The keys of a tile's columns, where they lie side by side.
template <int kKeys>
struct KeyRun {
  int first;

  __device__ int begin() const { return first; }
  __device__ int end() const { return first + kKeys; }
  // The key of the first of eight columns, and of the n-th after it.
  __device__ KeyRun after(int n) const { return {first + n}; }
  __device__ int column(int i) const { return first + 8 * i; }
};

// Of two rows: the largest logit so far, and this thread's part of the total of the weights.
struct SoftmaxRows {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // From products to weights. factor: by which earlier sums of values are multiplied. masked: a row sees not all of the
  // keys.
  template <int kColumns, class Arguments, class Keys>
  __device__ void weigh(Arguments const& a, float (&product)[kColumns][4], KeyInterval const (&seen)[2],
                        Keys const& keys, bool masked, float (&factor)[2]) {
    float scale = a.scale * kLog2E;  // of products to logits of base 2; positive, so that the largest stays it
    if (a.softcap > 0.f || scale <= 0.f) {
      to_logits(a, product);
      scale = 1.f;
    }
    if (masked) mask(product, seen, keys.after(threadIdx.x % 4 * 2));
    float largest[4], part[4] = {}, base[2];
#pragma unroll
    for (int j = 0; j < 4; ++j) largest[j] = product[0][j];
#pragma unroll
    for (int i = 1; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) largest[j] = fmaxf(largest[j], product[i][j]);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float const next = fmaxf(top[row], scale * max_of_row(fmaxf(largest[2 * row], largest[2 * row + 1])));
      base[row] = finite_top(next), factor[row] = exp2_fast(top[row] - base[row]), top[row] = next;
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        product[i][j] = exp2_fast(fmaf(product[i][j], scale, -base[j / 2]));
        part[j] += product[i][j];
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) total[row] = fmaf(total[row], factor[row], part[2 * row] + part[2 * row + 1]);
  }

  // The whole totals, once all keys are in.
  __device__ void finish() {
#pragma unroll
    for (float& each : total) each = sum_of_row(each);
  }

  // Counts the sink, and returns what the sums of values of a row are multiplied by at the end.
  __device__ float divisor(int row, float sink) const {
    float const base = finite_top(fmaxf(top[row], sink)), factor = exp2_fast(top[row] - base);
    float const all = total[row] * factor + exp2_fast(sink - base);
    return all == 0.f ? 0.f : factor / all;
  }

 private:
  template <int kColumns, class Arguments>
  static __device__ void to_logits(Arguments const& a, float (&product)[kColumns][4]) {
    bool const capped = a.softcap > 0.f;
    float const factor = capped ? a.scale / a.softcap : a.scale * kLog2E, cap = a.softcap * kLog2E;
    each_of(product, [&](float& value) { value *= factor; });
    if (capped) each_of(product, [&](float& value) { value = cap * tanh_fast(value); });
  }

  template <int kColumns, class Change>
  static __device__ void each_of(float (&product)[kColumns][4], Change change) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (float& value : product[i]) change(value);
    }
  }

  template <int kColumns, class Keys>
  static __device__ void mask(float (&product)[kColumns][4], KeyInterval const (&seen)[2], Keys const& keys) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!seen[j / 2].has(keys.column(i) + j % 2)) product[i][j] = -INFINITY;
      }
    }
  }
};

// Weights of 16 keys as the left factor of a product: 8 columns and the 8 after them.
template <class T>
__device__ void pack_weights(float const (&low)[4], float const (&high)[4], uint32_t (&out)[4]) {
  out[0] = pack_two<T>(low[0], low[1]), out[1] = pack_two<T>(low[2], low[3]);
  out[2] = pack_two<T>(high[0], high[1]), out[3] = pack_two<T>(high[2], high[3]);
}

}  // namespace bridge
