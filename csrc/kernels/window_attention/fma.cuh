// Attention by fused multiply-adds in float32, on every GPU: for float32, and for what the tensor cores do not take. A
// block walks the tiles of keys that its rows see, and computes while another one copies. `Rows` says which rows are
// the block's, and `Tiles` which keys a tile has.
#pragma once

#include <type_traits>

#include "kernels/window_attention/results.cuh"

namespace bridge {

// A thread has four rows: of their products every 16th key of a tile, of their sums four of every 64 channels.
// kHeadDim: 64, 128 or 256. kResidents: blocks that fit a multiprocessor.
template <class T_, int kHeadDim_, int kRows_, int kKeys_, int kResidents_>
struct FmaTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kRows = kRows_, kKeys = kKeys_, kResidents = kResidents_;
  static constexpr int kRowsOfThread = 4, kAcross = 16, kThreads = kRows / kRowsOfThread * kAcross;
  static constexpr int kKeysOfThread = kKeys / kAcross, kQuads = kHeadDim / (4 * kAcross);
  // Rows in shared memory are 16 bytes apart beyond their width, so that 8 of them lie in different banks.
  static constexpr int kWidth = kHeadDim + 4, kWeightWidth = kKeys + 4;
  static constexpr int kSharedBytes = ((kRows + kKeys) * kWidth + kRows * kWeightWidth) * sizeof(float);
};

template <class Tile>
constexpr bool kIsFmaTile = false;
template <class T, int... kSizes>
constexpr bool kIsFmaTile<FmaTile<T, kSizes...>> = true;

// For 16 rows or fewer, and for more. Their shared memory fits compute capability 7.5's 64 KiB.
template <class T, int kHeadDim>
using FmaFew = FmaTile<T, kHeadDim, 16, kHeadDim == 256 ? 16 : 32, 3>;
template <class T, int kHeadDim>
using FmaMany =
    std::conditional_t<kHeadDim == 64, FmaTile<T, 64, 64, 64, 2>,
                       std::conditional_t<kHeadDim == 128, FmaTile<T, 128, 32, 32, 3>, FmaTile<T, 256, 32, 16, 2>>>;

template <class Tile, class Rows>
struct FmaAttention {
  using T = typename Tile::T;
  static constexpr int kRowsOfThread = Tile::kRowsOfThread;

  WindowAttentionArguments<T> const& a;
  Rows const& rows;
  float *q, *tile_rows, *weights;  // in shared memory; tile_rows: keys, and then values
  int across = threadIdx.x % Tile::kAcross, first_row = threadIdx.x / Tile::kAcross * kRowsOfThread;
  KeyInterval keys, seen[kRowsOfThread];  // keys: that any row of the block sees
  float top[kRowsOfThread], total[kRowsOfThread] = {}, sum[kRowsOfThread][Tile::kQuads][4] = {};

  __device__ FmaAttention(WindowAttentionArguments<T> const& a, Rows const& rows, unsigned char* memory)
      : a(a), rows(rows), q(reinterpret_cast<float*>(memory)) {
    tile_rows = q + Tile::kRows * Tile::kWidth, weights = tile_rows + Tile::kKeys * Tile::kWidth;
    keys = covering_of_warp(rows, 0, Tile::kRows);
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) seen[i] = rows.keys(first_row + i), top[i] = -INFINITY;
  }

  __device__ void copy_queries() const {
    bring<Tile::kRows>(q, [&](int row) { return rows.q(row); });
  }

  // Queries are in shared memory, or on their way.
  template <class Tiles>
  __device__ void walk(Tiles const& tiles) {
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      __syncthreads();  // the values and weights before have been read
      copy(a.k, tiles, tile);
      __syncthreads();
      weigh(tiles, tile);
      __syncthreads();
      copy(a.v, tiles, tile);
      __syncthreads();
      add_values();
    }
  }

  __device__ void finish(AttentionParts const& parts) {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      int const row = first_row + i;
      total[i] = over_row(total[i], [](float a, float b) { return a + b; });
      if (!rows.has(row)) continue;
      if (parts.count > 1) {
        int64_t const place = rows.part_index(row);
        if (across == 0) parts.states[place] = {top[i], total[i]};
        if (total[i] != 0.f) write(parts.sums + place * a.head_dim, sum[i], 1.f);
      } else {
        float const sink = sink_logit(a, rows.head(row)), base = finite_top(fmaxf(top[i], sink));
        float const factor = exp2f(top[i] - base), all = total[i] * factor + exp2f(sink - base);
        write(rows.out(row), sum[i], all == 0.f ? 0.f : factor / all);
      }
    }
  }

 private:
  // Keys, or values. What no row sees is not read: it counts as zeros.
  template <class Tiles>
  __device__ void copy(AttentionTensor<T const> const& from, Tiles const& tiles, int tile) const {
    bring<Tile::kKeys>(tile_rows, [&](int place) -> T const* {
      int const key = tiles.position(tile, place);
      return keys.has(key) ? from.row(rows.batch, rows.group, key) : nullptr;
    });
  }

  // Rows to shared memory: row(i) is the i-th, or null for zeros. So many elements of a thread come at once.
  template <int kCount, class Row>
  __device__ void bring(float* to, Row row) const {
    constexpr int kOfThread = kCount * Tile::kHeadDim / Tile::kThreads, kAtOnce = kOfThread < 16 ? kOfThread : 16;
    static_assert(kOfThread % kAtOnce == 0);
#pragma unroll 1
    for (int first = threadIdx.x; first < kCount * Tile::kHeadDim; first += kAtOnce * Tile::kThreads) {
      float held[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        int const element = first + i * Tile::kThreads, channel = element % Tile::kHeadDim;
        T const* const from = channel < a.head_dim ? row(element / Tile::kHeadDim) : nullptr;
        held[i] = from ? to_float(from[channel]) : 0.f;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        int const element = first + i * Tile::kThreads;
        to[element / Tile::kHeadDim * Tile::kWidth + element % Tile::kHeadDim] = held[i];
      }
    }
  }

  // By sums of every kSums-th channel: they round less than one sum of all would.
  __device__ void multiply_keys(float (&product)[kRowsOfThread][Tile::kKeysOfThread]) const {
    constexpr int kSums = Tile::kKeysOfThread > 2 ? 2 : 4;
    float part[kRowsOfThread][Tile::kKeysOfThread][kSums] = {};
#pragma unroll 1
    for (int channel = 0; channel < a.head_dim; channel += 4) {
      float4 query[kRowsOfThread];
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i) query[i] = at(q + (first_row + i) * Tile::kWidth + channel);
#pragma unroll
      for (int j = 0; j < Tile::kKeysOfThread; ++j) {
        float4 const key = at(tile_rows + (across + Tile::kAcross * j) * Tile::kWidth + channel);
#pragma unroll
        for (int i = 0; i < kRowsOfThread; ++i) {
          float (&sums)[kSums] = part[i][j];
          sums[0] = fmaf(query[i].x, key.x, sums[0]), sums[1] = fmaf(query[i].y, key.y, sums[1]);
          sums[2 % kSums] = fmaf(query[i].z, key.z, sums[2 % kSums]);
          sums[3 % kSums] = fmaf(query[i].w, key.w, sums[3 % kSums]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsOfThread * Tile::kKeysOfThread; ++i) {
      float const(&sums)[kSums] = part[i / Tile::kKeysOfThread][i % Tile::kKeysOfThread];
      float const all = kSums == 2 ? sums[0] + sums[1] : (sums[0] + sums[2 % kSums]) + (sums[1] + sums[3 % kSums]);
      product[i / Tile::kKeysOfThread][i % Tile::kKeysOfThread] = all;
    }
  }

  template <class Tiles>
  __device__ void weigh(Tiles const& tiles, int tile) {
    float product[kRowsOfThread][Tile::kKeysOfThread];
    multiply_keys(product);
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      float mine[Tile::kKeysOfThread], next = top[i];
#pragma unroll
      for (int j = 0; j < Tile::kKeysOfThread; ++j) {
        bool const sees = seen[i].has(tiles.position(tile, across + Tile::kAcross * j));
        mine[j] = sees ? logit(a, product[i][j]) : -INFINITY;
        next = fmaxf(next, mine[j]);
      }
      next = over_row(next, [](float a, float b) { return fmaxf(a, b); });
      float const base = finite_top(next), factor = exp2f(top[i] - base);
      top[i] = next, total[i] *= factor;
#pragma unroll
      for (int j = 0; j < Tile::kKeysOfThread; ++j) {
        float const weight = exp2f(mine[j] - base);
        total[i] += weight;
        weights[(first_row + i) * Tile::kWeightWidth + across + Tile::kAcross * j] = weight;
      }
#pragma unroll
      for (int j = 0; j < 4 * Tile::kQuads; ++j) sum[i][j / 4][j % 4] *= factor;
    }
  }

  __device__ void add_values() {
#pragma unroll 1
    for (int key = 0; key < Tile::kKeys; key += 4) {
      float4 weight[kRowsOfThread];
#pragma unroll
      for (int i = 0; i < kRowsOfThread; ++i) weight[i] = at(weights + (first_row + i) * Tile::kWeightWidth + key);
#pragma unroll
      for (int quad = 0; quad < Tile::kQuads; ++quad) {
        float const* const column = tile_rows + key * Tile::kWidth + 4 * (across + Tile::kAcross * quad);
        float4 value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) value[i] = at(column + i * Tile::kWidth);
#pragma unroll
        for (int i = 0; i < kRowsOfThread; ++i) {
          add(sum[i][quad], weight[i].x, value[0]);
          add(sum[i][quad], weight[i].y, value[1]);
          add(sum[i][quad], weight[i].z, value[2]);
          add(sum[i][quad], weight[i].w, value[3]);
        }
      }
    }
  }

  static __device__ float4 at(float const* shared) { return *reinterpret_cast<float4 const*>(shared); }
  static __device__ void add(float (&sum)[4], float weight, float4 value) {
    sum[0] = fmaf(weight, value.x, sum[0]), sum[1] = fmaf(weight, value.y, sum[1]);
    sum[2] = fmaf(weight, value.z, sum[2]), sum[3] = fmaf(weight, value.w, sum[3]);
  }
  // Of the 16 threads that share rows.
  template <class Join>
  static __device__ float over_row(float value, Join join) {
#pragma unroll
    for (int apart = Tile::kAcross / 2; apart > 0; apart /= 2) value = join(value, __shfl_xor_sync(~0u, value, apart));
    return value;
  }
  template <class To>
  __device__ void write(To* to, float const (&row)[Tile::kQuads][4], float factor) const {
#pragma unroll
    for (int i = 0; i < 4 * Tile::kQuads; ++i) {
      int const channel = 4 * (across + Tile::kAcross * (i / 4)) + i % 4;
      if (channel < a.head_dim) to[channel] = from_float<To>(factor == 0.f ? 0.f : row[i / 4][i % 4] * factor);
    }
  }
};

// One dimension of blocks: batch, group, tile of rows, split.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_fma_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts) {
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using Rows = AttentionRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  FmaAttention<Tile, Rows> attention(a, rows, memory);
  IntervalTiles<Tile> const tiles(attention.keys, rows.split, parts.count);
  attention.copy_queries();
  attention.walk(tiles);
  attention.finish(parts);
}

}  // namespace bridge
