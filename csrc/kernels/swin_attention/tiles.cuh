// Attention within larger windows by mma.sync, from compute capability 8.0 on: a block has a tile of queries of one
// head and window, and walks the tiles of its keys.
#pragma once

#include "kernels/swin_attention/rows.cuh"

namespace bridge {

// A tile of queries, and two of keys and values; 1 / length of each row.
template <class Tile>
constexpr int kSwinTilesBytes = 5 * Tile::kTensorBytes + 3 * Tile::kTokens * int(sizeof(float));

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Two neighbours of a table, of which the second may be beyond a row's end.
template <class T>
__device__ float2 pair_of(SwinTable<T> const& table, int64_t first, bool both, bool aligned) {
  if (aligned && table.wide) return *reinterpret_cast<float2 const*>(static_cast<float const*>(table.data) + first);
  if (aligned) {
    auto const pair = *reinterpret_cast<Vec<T, 2> const*>(static_cast<T const*>(table.data) + first);
    return {to_float(pair.lane[0]), to_float(pair.lane[1])};
  }
  return {table.at(first), both ? table.at(first + 1) : 0.f};
}

template <class Tile>
struct SwinTiles {
  using T = typename Tile::T;
  using Mma = SwinMma<Tile>;
  static constexpr int kColumns = Tile::kColumns, kTensorBytes = Tile::kTensorBytes;

  SwinArguments<T> const& a;
  unsigned char* memory;
  SwinPlace window;
  int index, head, sides;
  SwinRows rows;
  float factor[2];
  typename Mma::Fragments q;
  typename Mma::Sums sum = {};
  OnlineSoftmax softmax;
  float total[4] = {};

  __device__ SwinTiles(SwinArguments<T> const& a, unsigned char* memory, int index, int head, int first)
      : a(a),
        memory(memory),
        window(SwinPlace::of(a.windows, index)),
        index(index),
        head(head),
        sides(a.hidden_sides(window)),
        rows(a, head, first) {
    factor[0] = factor[1] = a.factor(head);
  }

  __device__ int tokens() const { return a.windows.tokens(); }
  __device__ unsigned char* keys(int stage) const { return memory + (1 + 2 * stage) * kTensorBytes; }
  // 1 / length: of queries, and of each stage's keys.
  __device__ float* lengths(int which) const {
    return reinterpret_cast<float*>(memory + 5 * kTensorBytes) + which * Tile::kTokens;
  }

  // Keys and values.
  __device__ void copy(int tile) const {
    T const* const tensors[] = {a.k.data, a.v.data};
    SwinRows const of_tile(a, head, tile * Tile::kTokens);
    Mma::template copy<true>(a, tensors, window, of_tile, shared_address(keys(tile % 2)));
  }

  __device__ void walk() {
    int const tiles = (tokens() + Tile::kTokens - 1) / Tile::kTokens;
    T const* const tensors[] = {a.q.data};
    Mma::template copy<true>(a, tensors, window, rows, shared_address(memory));
    copy(0);
    for (int tile = 0; tile < tiles; ++tile) {
      float added[kColumns][4];
      find_added(tile * Tile::kTokens, added);
      wait_for_copies();
      __syncthreads();
      if (tile + 1 < tiles) copy(tile + 1);
      if (a.cosine()) find_lengths(tile);
      if (tile == 0) begin();
      compute(tile % 2, added);
    }
    Mma::write(a, window, rows, total, sum);
  }

  __device__ void begin() {
    Mma::load_queries(shared_address(memory), q);
    if (!a.cosine()) return;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      factor[half] *= lengths(0)[threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half];
  }

  __device__ void find_lengths(int tile) const {
    if (tile == 0) find_lengths(memory, lengths(0));
    find_lengths(keys(tile % 2), lengths(1 + tile % 2));
    __syncthreads();
  }
  __device__ static void find_lengths(unsigned char const* tensor, float* to) {
    for (int row = threadIdx.x; row < Tile::kTokens; row += Tile::kThreads)
      to[row] = Mma::inverse_length(tensor + row * Tile::kRowBytes);
  }

  // What is added to the logits of base 2 of the tile that begins with key `first`: -inf where there is none.
  __device__ void find_added(int first, float (&added)[kColumns][4]) const {
    int const column = first + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const row = rows.inside[half] ? rows.token[half] : tokens() - 1;
      int64_t const bias = (int64_t(head) * tokens() + row) * tokens();
      int64_t const mask = a.mask.data ? (int64_t(index % a.masks) * tokens() + row) * tokens() : 0;
      int const side = sides ? side_of(a.windows, row) : 0;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        int const key = column + 8 * i;
        float2 all = {0.f, 0.f};
        if (key < tokens()) {
          if (a.bias.data) add(all, pair_of(a.bias, bias + key, key + 1 < tokens(), tokens() % 2 == 0));
          if (a.mask.data) add(all, pair_of(a.mask, mask + key, key + 1 < tokens(), tokens() % 2 == 0));
          if (sides) add(all, {shift_mask(side, key), shift_mask(side, key + 1)});
        }
        added[i][2 * half] = key < tokens() ? all.x * kLog2E : -INFINITY;
        added[i][2 * half + 1] = key + 1 < tokens() ? all.y * kLog2E : -INFINITY;
      }
    }
  }
  __device__ static void add(float2& sum, float2 value) { sum.x += value.x, sum.y += value.y; }
  __device__ float shift_mask(int side, int key) const {
    return (side ^ side_of(a.windows, key)) & sides ? a.shift_mask : 0.f;
  }

  __device__ void compute(int stage, float const (&added)[kColumns][4]) {
    uint32_t const shared = shared_address(keys(stage));
    constexpr typename Mma::Products kNone = {};
    typename Mma::Products product;
    Mma::multiply_keys(q, shared, kNone, product);
    float const* const inverse = lengths(1 + stage) + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (a.cosine()) product[i][j] *= inverse[8 * i + j % 2];
        product[i][j] = fmaf(product[i][j], factor[j / 2], added[i][j]);
      }
    }
    float scale[2];
    softmax.weigh(product, 1.f, scale);
#pragma unroll
    for (auto& each : sum) {
#pragma unroll
      for (int j = 0; j < 4; ++j) each[j] *= scale[j / 2];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) total[j] *= scale[j / 2];
    Mma::add_values(product, shared + kTensorBytes, sum, total);
  }
};

#endif

// One dimension of blocks: window, head, tile of queries.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads) swin_attention_tiles_kernel(SwinArguments<typename Tile::T> a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  SwinMma<Tile>::clear(memory, kSwinTilesBytes<Tile>);
  __syncthreads();
  int const tiles = (a.windows.tokens() + Tile::kTokens - 1) / Tile::kTokens, item = blockIdx.x / tiles;
  SwinTiles<Tile> work(a, memory, item / a.heads, item % a.heads, blockIdx.x % tiles * Tile::kTokens);
  work.walk();
#else
  __trap();
#endif
}

}  // namespace bridge
