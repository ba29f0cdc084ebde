// What the kernels of window attention are given, and the interval of keys that a query sees.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/common/vec.cuh"

namespace bridge {

constexpr int kNoWindow = -1;  // all keys on that side
constexpr int kWindowAttentionMaxHeadDim = 256;

// Steps between elements, of a tensor whose head_dim is innermost.
struct AttentionStrides {
  int64_t batch, head, seq;
};
template <class T>
struct AttentionTensor {
  T* data;
  AttentionStrides strides;

  __host__ __device__ T* row(int batch, int head, int position) const {
    return data + batch * strides.batch + head * strides.head + position * strides.seq;
  }
};

template <class T>
struct WindowAttentionArguments {
  AttentionTensor<T const> q, k, v;
  AttentionTensor<T> out;
  void const* sinks;       // [heads] of T or float32; null: none
  void const* key_ranges;  // [batch or 1, queries or 1, 2]; null: none
  bool float_sinks, wide_ranges;
  int64_t range_batch_step, range_query_step;  // in ranges; 0 where one serves all
  int batch, heads, groups, queries, keys, head_dim;
  int window_left, window_right;
  float scale, softcap;

  __host__ __device__ int ratio() const { return heads / groups; }  // query heads of a key head
  __host__ __device__ int64_t rows() const { return int64_t(batch) * heads * queries; }
  // Keys of a batch element, at whose end the queries are.
  __host__ __device__ int length(int) const { return keys; }
  // A key, and its value.
  __device__ T const* key(int batch, int group, int position) const { return k.row(batch, group, position); }
  __device__ T const* value(int batch, int group, int position) const { return v.row(batch, group, position); }
};

// begin <= key < end; without keys where they are equal.
struct KeyInterval {
  int begin, end;

  __host__ __device__ bool empty() const { return begin >= end; }
  __host__ __device__ bool has(int key) const { return key >= begin && key < end; }
};

__host__ __device__ inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// What both the window and the query's range let it see.
template <class Arguments>
__host__ __device__ KeyInterval seen_keys(Arguments const& a, int batch, int query) {
  int64_t const keys = a.length(batch), position = keys - a.queries + query;
  int64_t begin = a.window_left == kNoWindow ? 0 : most(0, position - a.window_left);
  int64_t end = a.window_right == kNoWindow ? keys : least(keys, position + a.window_right + 1);
  if (a.key_ranges) {
    int64_t const first = 2 * (batch * a.range_batch_step + query * a.range_query_step);
    auto at = [&](int64_t i) {
      return a.wide_ranges ? static_cast<int64_t const*>(a.key_ranges)[i]
                           : int64_t(static_cast<int32_t const*>(a.key_ranges)[i]);
    };
    begin = most(begin, at(first)), end = least(end, at(first + 1));
  }
  if (begin >= end) return {0, 0};
  return {static_cast<int>(begin), static_cast<int>(end)};
}

// The interval that covers two, of which one without keys adds nothing.
__host__ __device__ inline KeyInterval covering(KeyInterval a, KeyInterval b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {static_cast<int>(least(a.begin, b.begin)), static_cast<int>(most(a.end, b.end))};
}

}  // namespace bridge
