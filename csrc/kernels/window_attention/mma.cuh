// Attention by mma.sync, from compute capability 8.0 on. A block walks the tiles of keys that its rows see: values come
// while products with keys are computed, the next keys while values are summed. `Rows` says which rows are the block's,
// and `Tiles` which keys a tile has.
#pragma once

#include "kernels/window_attention/results.cuh"

namespace bridge {

// kRowTiles: of 16 rows, of a warp. kShares: warps that share rows, of which each takes a part of every tile of keys;
// for few rows. kKeys: of a tile. kResidents: blocks that fit a multiprocessor.
template <class T_, int kHeadDim_, int kRowTiles_, int kShares_, int kKeys_>
struct MmaTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kRowTiles = kRowTiles_, kShares = kShares_, kKeys = kKeys_;
  static constexpr int kWarps = 4, kThreads = 32 * kWarps, kResidents = kShares == 1 || kHeadDim > 128 ? 2 : 3;
  static constexpr int kRowsOfWarp = 16 * kRowTiles, kRows = kRowsOfWarp * kWarps / kShares;
  static constexpr int kKeysOfWarp = kKeys / kShares;
  // Rows in shared memory are 16 bytes apart beyond their width, so that 8 of them lie in different banks.
  static constexpr int kRowBytes = kHeadDim * sizeof(T) + kAccessBytes;
  static constexpr int kSharedBytes = (kRows + 2 * kKeys) * kRowBytes;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile, class Rows>
struct MmaAttention {
  using T = typename Tile::T;
  static constexpr int kChunks = Tile::kHeadDim * sizeof(T) / kAccessBytes, kInChunk = kAccessBytes / sizeof(T);
  static constexpr int kKeyColumns = Tile::kKeysOfWarp / 8, kChannelColumns = Tile::kHeadDim / 8;

  WindowAttentionArguments<T> const& a;
  Rows const& rows;
  KeyInterval keys;  // that any row of the block sees
  uint32_t shared_q, shared_k, shared_v;
  int warp_row, warp_key;  // the first of this warp in the tile of rows, and in a tile of keys
  KeyInterval seen[Tile::kRowTiles][2], warp_keys;
  SoftmaxRows softmax[Tile::kRowTiles];
  float sum[Tile::kRowTiles][kChannelColumns][4] = {};

  __device__ MmaAttention(WindowAttentionArguments<T> const& a, Rows const& rows, unsigned char* memory)
      : a(a), rows(rows), shared_q(shared_address(memory)) {
    shared_k = shared_q + Tile::kRows * Tile::kRowBytes, shared_v = shared_k + Tile::kKeys * Tile::kRowBytes;
    int const warp = threadIdx.x / 32;
    warp_row = Tile::kShares == 1 ? warp * Tile::kRowsOfWarp : 0;
    warp_key = Tile::kShares == 1 ? 0 : warp * Tile::kKeysOfWarp;
    keys = covering_of_warp(rows, 0, Tile::kRows);
    warp_keys = Tile::kShares == 1 ? covering_of_warp(rows, warp_row, warp_row + Tile::kRowsOfWarp) : keys;
#pragma unroll
    for (int i = 0; i < 2 * Tile::kRowTiles; ++i) seen[i / 2][i % 2] = rows.keys(thread_row(i / 2, i % 2));
  }

  __device__ int thread_row(int row_tile, int half) const {
    return warp_row + 16 * row_tile + 8 * half + threadIdx.x % 32 / 4;
  }

  // Calls visit(row, place in shared memory, whether this thread's channels are there) for its rows of a tile.
  template <int kCount, class Visit>
  __device__ void each_row(uint32_t shared, Visit visit) const {
    constexpr int kAtOnce = Tile::kThreads / kChunks;
    int const chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
    bool const inside = chunk * kInChunk < a.head_dim;
    if (Tile::kThreads % kChunks != 0 && first >= kAtOnce) return;
#pragma unroll
    for (int i = 0; i < (kCount + kAtOnce - 1) / kAtOnce; ++i) {
      int const row = first + i * kAtOnce;
      if ((i + 1) * kAtOnce <= kCount || row < kCount)
        visit(row, shared + row * Tile::kRowBytes + chunk * kAccessBytes, inside);
    }
  }
  __device__ int first_channel() const { return threadIdx.x % kChunks * kInChunk; }
  __device__ void copy_queries() const {
    each_row<Tile::kRows>(shared_q, [&](int row, uint32_t to, bool inside) {
      copy_async_or_zero(to, inside ? rows.q(row) + first_channel() : a.q.data, inside);
    });
  }
  // Keys, or values.
  template <class Tiles>
  __device__ void copy_tile(uint32_t shared, AttentionTensor<T const> const& from, Tiles const& tiles, int tile) const {
    using Source = typename Tiles::template Source<Tile::kThreads / kChunks>;
    Source source(tiles, tile, from, rows, threadIdx.x / kChunks, first_channel());
    each_row<Tile::kKeys>(shared, [&](int key, uint32_t to, bool inside) {
      bool const copies = inside && source.has(key);
      copy_async_or_zero(to, copies ? source.at(key) : a.q.data, copies);
      source.advance();
    });
  }

  // Queries are in shared memory, or on their way.
  template <class Tiles>
  __device__ void walk(Tiles const& tiles) {
    constexpr bool kEarly = Tile::kShares > 1;  // the first values, for a block of few rows often has one tile of keys
    if (tiles.begin < tiles.end) {
      copy_tile(shared_k, a.k, tiles, tiles.begin);
      group_copies();
      if (kEarly) copy_tile(shared_v, a.v, tiles, tiles.begin);
    }
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      auto const part = tiles.part(tile, warp_key);
      bool const sees = part.begin() < warp_keys.end && part.end() > warp_keys.begin;
      float product[Tile::kRowTiles][kKeyColumns][4] = {};
      bool const early = kEarly && tile == tiles.begin;
      if (early) {
        wait_for_groups();
      } else {
        wait_for_copies();
      }
      __syncthreads();
      if (!early) copy_tile(shared_v, a.v, tiles, tile);
      if (sees) multiply_keys(product);
      wait_for_copies();
      __syncthreads();
      if (tile + 1 < tiles.end) copy_tile(shared_k, a.k, tiles, tile + 1);
      if (!sees) continue;
      weigh(product, part);
      add_values(product);
    }
    wait_for_copies();
  }

  __device__ void multiply_keys(float (&product)[Tile::kRowTiles][kKeyColumns][4]) const {
    int const lane = threadIdx.x % 32;
    uint32_t const left = shared_q + (warp_row + lane % 16) * Tile::kRowBytes + lane / 16 * kAccessBytes;
    uint32_t const right =
        shared_k + (warp_key + lane % 8 + lane / 16 * 8) * Tile::kRowBytes + lane / 8 % 2 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < kChunks / 2; ++step) {
      uint32_t q[Tile::kRowTiles][4];
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i)
        load_matrices(q[i], left + 16 * i * Tile::kRowBytes + 2 * step * kAccessBytes);
#pragma unroll
      for (int j = 0; j < kKeyColumns / 2; ++j) {
        uint32_t k[4];
        load_matrices(k, right + 16 * j * Tile::kRowBytes + 2 * step * kAccessBytes);
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          multiply_add<T>(product[i][2 * j], q[i], k[0], k[1]);
          multiply_add<T>(product[i][2 * j + 1], q[i], k[2], k[3]);
        }
      }
    }
  }

  template <class Part>
  __device__ void weigh(float (&product)[Tile::kRowTiles][kKeyColumns][4], Part const& part) {
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      bool masked = false;
#pragma unroll
      for (KeyInterval const& each : seen[i]) masked |= each.begin > part.begin() || each.end < part.end();
      float factor[2];
      softmax[i].weigh(a, product[i], seen[i], part, __any_sync(~0u, masked), factor);
#pragma unroll
      for (int j = 0; j < kChannelColumns; ++j) {
#pragma unroll
        for (int n = 0; n < 4; ++n) sum[i][j][n] *= factor[n / 2];
      }
    }
  }

  __device__ void add_values(float const (&weight)[Tile::kRowTiles][kKeyColumns][4]) {
    int const lane = threadIdx.x % 32;
    uint32_t const right = shared_v + (warp_key + lane % 16) * Tile::kRowBytes + lane / 16 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < kKeyColumns / 2; ++step) {
      uint32_t p[Tile::kRowTiles][4];
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i) pack_weights<T>(weight[i][2 * step], weight[i][2 * step + 1], p[i]);
#pragma unroll
      for (int j = 0; j < kChannelColumns / 2; ++j) {
        uint32_t v[4];
        load_matrices_transposed(v, right + 16 * step * Tile::kRowBytes + 2 * j * kAccessBytes);
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          multiply_add<T>(sum[i][2 * j], p[i], v[0], v[1]);
          multiply_add<T>(sum[i][2 * j + 1], p[i], v[2], v[3]);
        }
      }
    }
  }

  __device__ void finish(AttentionParts const& parts, unsigned char* memory) {
#pragma unroll
    for (auto& each : softmax) each.finish();
    if constexpr (Tile::kShares > 1) {
      combine_shares(parts, memory);
    } else {
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i) {
        auto row = [&](int half) { return thread_row(i, half); };
        if (parts.count > 1) {
          write_part(rows, parts, softmax[i], sum[i], row);
        } else {
          write_rows(rows, softmax[i], sum[i], row);
        }
      }
    }
  }

  // Of the warps, which have shares of the keys: each puts its sums where keys and values were.
  __device__ void combine_shares(AttentionParts const& parts, unsigned char* memory) const {
    static_assert(Tile::kShares == 1 || Tile::kRowTiles == 1);
    static_assert(Tile::kShares == 1 ||
                  Tile::kShares * 16 * Tile::kHeadDim * sizeof(float) <= 2 * Tile::kKeys * Tile::kRowBytes);
    auto* const states = reinterpret_cast<float2*>(memory);  // [share, row]
    auto* const sums = reinterpret_cast<float*>(memory + Tile::kRows * Tile::kRowBytes);
    int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const place = warp * 16 + 8 * half + lane / 4;
      if (lane % 4 == 0) states[place] = {softmax[0].top[half], softmax[0].total[half]};
#pragma unroll
      for (int i = 0; i < kChannelColumns; ++i)
        *reinterpret_cast<float2*>(sums + place * Tile::kHeadDim + 8 * i + lane % 4 * 2) = {sum[0][i][2 * half],
                                                                                            sum[0][i][2 * half + 1]};
    }
    __syncthreads();
    for (int row = warp; row < 16 && rows.has(row); row += Tile::kWarps) {
      CombinedRow<kExactChannels> const combined(states + row, sums + row * Tile::kHeadDim, Tile::kShares, 16,
                                                 Tile::kHeadDim);
      if (parts.count == 1) {
        combined.write(rows.out(row), a.head_dim, sink_logit(a, rows.head(row)));
      } else {
        int64_t const place = rows.part_index(row);
        combined.write_part(parts.sums + place * a.head_dim, parts.states + place, a.head_dim);
      }
    }
  }
};

#endif

// One dimension of blocks: batch, group, tile of rows, split.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_mma_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using Rows = AttentionRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  MmaAttention<Tile, Rows> attention(a, rows, memory);
  IntervalTiles<Tile> const tiles(attention.keys, rows.split, parts.count);
  attention.copy_queries();
  attention.walk(tiles);
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
