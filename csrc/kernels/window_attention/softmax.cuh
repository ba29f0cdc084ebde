// Logits of window attention: scaled, capped, masked; and a logit without a value, the sink.
#pragma once

#include "kernels/common/attention.cuh"
#include "kernels/window_attention/arguments.cuh"

namespace bridge {

// tanh by one exponential: its absolute error is that of float32, which tanh.approx's is not.
__device__ inline float tanh_fast(float x) { return 1.f - __fdividef(2.f, exp2_fast(2 * kLog2E * x) + 1.f); }

template <class T>
__device__ float sink_logit(WindowAttentionArguments<T> const& a, int head) {
  if (!a.sinks) return -INFINITY;
  float const sink =
      a.float_sinks ? static_cast<float const*>(a.sinks)[head] : to_float(static_cast<T const*>(a.sinks)[head]);
  return sink * kLog2E;
}

// The keys of a tile's columns, where they lie side by side. kEndByEnd: each end of what is seen is masked by itself,
// which is faster where most tiles are cut at one end, and spills registers of some kernels by mma.sync.
template <int kKeys, bool kEndByEnd = false>
struct KeyRun {
  int first;

  __device__ int begin() const { return first; }
  __device__ int end() const { return first + kKeys; }
  // The key of the first of eight columns, and of the n-th after it.
  __device__ KeyRun after(int n) const { return {first + n}; }
  __device__ int column(int i) const { return first + 8 * i; }
};

struct SoftmaxRows : OnlineSoftmax {
  // From products to weights. factor: by which earlier sums of values are multiplied. masked: a row sees not all of the
  // keys.
  template <int kSlack = 0, int kColumns, class Arguments, class Keys>
  __device__ void weigh(Arguments const& a, float (&product)[kColumns][4], KeyInterval const (&seen)[2],
                        Keys const& keys, bool masked, float (&factor)[2]) {
    float const scale = scale_or_logits(a, product);
    if (masked) mask(product, seen, keys.after(threadIdx.x % 4 * 2));
    OnlineSoftmax::weigh<kSlack>(product, scale, factor);
  }

  // Counts the sink, and returns what the sums of values of a row are multiplied by at the end.
  __device__ float divisor(int row, float sink) const {
    float const base = finite_top(fmaxf(top[row], sink)), factor = exp2_fast(top[row] - base);
    float const all = total[row] * factor + exp2_fast(sink - base);
    return all == 0.f ? 0.f : factor / all;
  }

  // Of products to logits of base 2; positive, so that the largest stays it. Where it cannot be, makes logits of them
  // and is 1.
  template <int kColumns, class Arguments>
  static __device__ float scale_or_logits(Arguments const& a, float (&product)[kColumns][4]) {
    float scale = a.scale * kLog2E;
    if (a.softcap > 0.f || scale <= 0.f) {
      to_logits(a, product);
      scale = 1.f;
    }
    return scale;
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
  // By what compares with numbers that the compiler knows.
  template <int kColumns, int kKeys>
  static __device__ void mask(float (&product)[kColumns][4], KeyInterval const (&seen)[2],
                              KeyRun<kKeys, true> const& keys) {
    int const begin[] = {seen[0].begin - keys.first, seen[1].begin - keys.first};
    int const end[] = {seen[0].end - keys.first, seen[1].end - keys.first};
    if (__any_sync(~0u, max(begin[0], begin[1]) > 0))
      mask_where(product, [&](int row, int column) { return column < begin[row]; });
    if (__any_sync(~0u, min(end[0], end[1]) < 8 * kColumns))
      mask_where(product, [&](int row, int column) { return column >= end[row]; });
  }

  template <int kColumns, class Hidden>
  static __device__ void mask_where(float (&product)[kColumns][4], Hidden hidden) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (hidden(j / 2, 8 * i + j % 2)) product[i][j] = -INFINITY;
      }
    }
  }
};

}  // namespace bridge
