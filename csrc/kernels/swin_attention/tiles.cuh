// Attention within larger windows by mma.sync, from compute capability 8.0 on: a block has a tile of queries of one
// head and window, and walks the tiles of its keys.
#pragma once

#include "kernels/swin_attention/rows.cuh"

namespace bridge {

// A tile of queries, and two of keys and values; 1 / length of each row.
template <class Tile>
constexpr int kSwinTilesBytes = 5 * Tile::kTensorBytes + 3 * Tile::kTokens * int(sizeof(float));

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

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
    Mma::copy(a, tensors, window, of_tile, shared_address(keys(tile % 2)));
  }

  __device__ void walk() {
    int const tiles = (tokens() + Tile::kTokens - 1) / Tile::kTokens;
    T const* const tensors[] = {a.q.data};
    Mma::copy(a, tensors, window, rows, shared_address(memory));
    copy(0);
    for (int tile = 0; tile < tiles; ++tile) {
      Added added;
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

  using Added = float[kColumns][4];

  // What is added to the logits of base 2 of the tile that begins with key `first`: -inf where there is none.
  __device__ void find_added(int first, Added& added) const {
    int const column = first + threadIdx.x % 4 * 2, left = tokens() - column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t const row = rows.inside[half] ? rows.token[half] : tokens() - 1;
      int const side = sides ? side_of(a.windows, static_cast<int>(row)) : 0;
#pragma unroll
      for (int i = 0; i < 2 * kColumns; ++i) {
        int const key = i / 2 * 8 + i % 2;
        float const value = sides && (side ^ side_of(a.windows, column + key)) & sides ? a.shift_mask * kLog2E : 0.f;
        added[i / 2][2 * half + i % 2] = key < left ? value : -INFINITY;
      }
      if (a.bias.data) add_table(a.bias, (int64_t(head) * tokens() + row) * tokens() + column, left, half, added);
      if (a.mask.data)
        add_table(a.mask, (int64_t(index % a.masks) * tokens() + row) * tokens() + column, left, half, added);
    }
  }
  __device__ void add_table(SwinTable<T> const& table, int64_t first, int left, int half, Added& added) const {
    if (table.wide) {
      add_row(static_cast<float const*>(table.data) + first, left, half, added);
    } else {
      add_row(static_cast<T const*>(table.data) + first, left, half, added);
    }
  }
  template <class Element>
  __device__ void add_row(Element const* from, int left, int half, Added& added) const {
    bool const pairs = tokens() % 2 == 0;  // then each two of a row are aligned
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (8 * i >= left) continue;
      Vec<Element, 2> value{};
      if (pairs) {
        value = *reinterpret_cast<Vec<Element, 2> const*>(from + 8 * i);
      } else {
        value.lane[0] = from[8 * i];
        if (8 * i + 1 < left) value.lane[1] = from[8 * i + 1];
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& sum = added[i][2 * half + j];
        sum = fmaf(kLog2E, to_float(value.lane[j]), sum);
      }
    }
  }

  __device__ void compute(int stage, Added const& added) {
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
