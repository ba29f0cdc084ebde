// Attention of few rows for compute capability 9.0: memory bounds it. Each warp streams keys of its own by the tensor
// memory accelerator, some ahead of those that it multiplies, and waits for no other one before the end. Keys are the
// rows of the products of mma.sync, and queries their 8 columns.
#pragma once

#include "kernels/window_attention/stream/tile.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// An 8 × 8 matrix of 16-bit elements, of which a thread has two of row lane / 4.
__device__ inline uint32_t transposed_matrix(uint32_t value) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(value));
  return result;
}

// Of the 8 threads that share columns of products.
template <class Join>
__device__ float over_column(float value, Join join) {
#pragma unroll
  for (int apart = 4; apart < 32; apart *= 2) value = join(value, __shfl_xor_sync(~0u, value, apart));
  return value;
}

// The softmax of a thread's two columns, 2 (lane % 4) and the one after it, each a row of attention.
struct SoftmaxColumns {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // As OnlineSoftmax::weigh, of 16 keys each.
  template <int kTiles>
  __device__ void weigh(float (&product)[kTiles][4], float scale, float (&factor)[2]) {
    float base[2], part[2] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float largest = product[0][j];
#pragma unroll
      for (int i = 1; i < 2 * kTiles; ++i) largest = fmaxf(largest, product[i / 2][i % 2 * 2 + j]);
      float const of_all = over_column(largest, [](float a, float b) { return fmaxf(a, b); });
      float const next = fmaxf(top[j], scale * of_all);
      base[j] = finite_top(next), factor[j] = exp2_fast(top[j] - base[j]), top[j] = next;
    }
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      float& each = product[i / 4][i % 4];
      each = exp2_fast(fmaf(each, scale, -base[i % 2]));
      part[i % 2] += each;
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) total[j] = fmaf(total[j], factor[j], part[j]);
  }

  __device__ float whole_total(int column) const {
    return over_column(total[column], [](float a, float b) { return a + b; });
  }
};

template <class Tile>
struct StreamSteps {
  using T = typename Tile::T;
  static constexpr int kChannelTiles = Tile::kHeadDim / 16, kKeyTiles = Tile::kKeysOfWarp / 16;

  WindowAttentionArguments<T> const& a;
  AttentionRows<T> const& rows;
  AttentionMaps const& maps;
  StreamShared<Tile>& shared;
  KeyInterval const keys;  // that any row sees
  KeyInterval seen[Tile::kRowTiles][2];
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int first, count;  // key of this warp, and steps from it on
  uint32_t q[Tile::kRowTiles][kChannelTiles][2];
  SoftmaxColumns softmax[Tile::kRowTiles];
  float sum[Tile::kRowTiles][kChannelTiles][4] = {};  // of 16 channels and 8 rows each

  __device__ StreamSteps(WindowAttentionArguments<T> const& a, AttentionRows<T> const& rows, AttentionMaps const& maps,
                         StreamShared<Tile>& shared, int splits)
      : a(a), rows(rows), maps(maps), shared(shared), keys(covering_of_warp(rows, 0, Tile::kRows)) {
    KeyTiles const tiles(keys, Tile::kKeys, rows.split, splits);
    first = keys.begin + tiles.begin * Tile::kKeys + warp * Tile::kKeysOfWarp;
    int const end = min(keys.end, keys.begin + tiles.end * Tile::kKeys);
    count = max(0, (end - first + Tile::kKeys - 1) / Tile::kKeys);
  }

  __device__ void walk() {
    if (lane == 0) begin_copies();
    __syncwarp();
    load_queries();
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      use(i);
      __syncwarp();
      if (lane == 0 && i + Tile::kStages < count) copy(i + Tile::kStages);
    }
  }

  // A thread's row, of the columns of a tile of rows.
  __device__ int row(int tile, int column) const { return 8 * tile + lane % 4 * 2 + column; }

 private:
  __device__ void begin_copies() {
#pragma unroll
    for (int i = 0; i < 2 * Tile::kStages; ++i) shared.full[warp][i / 2][i % 2].init(1);
    publish_barriers();
    for (int i = 0; i < min(count, Tile::kStages); ++i) copy(i);
  }

  // By one lane. What lies beyond the tensor is zeros.
  __device__ void copy(int step) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      SharedBarrier& full = shared.full[warp][step % Tile::kStages][which];
      uint32_t const to = shared_address(shared.ring[warp][step % Tile::kStages][which]);
      full.arrive_and_expect(Tile::kParts * Tile::kPartBytes);
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        copy_box(to + part * Tile::kPartBytes, which == 0 ? maps.k : maps.v, full, part * 64, key(step), rows.group,
                 rows.batch);
    }
  }
  __device__ int key(int step) const { return first + step * Tile::kKeys; }

  __device__ void load_queries() {
#pragma unroll
    for (int tile = 0; tile < Tile::kRowTiles; ++tile) {
      T const* const from = rows.q(8 * tile + lane / 4);
#pragma unroll
      for (int i = 0; i < 2 * kChannelTiles; ++i) {
        int const channel = 8 * i + lane % 4 * 2;
        q[tile][i / 2][i % 2] = channel < a.head_dim ? *reinterpret_cast<uint32_t const*>(from + channel) : 0;
      }
#pragma unroll
      for (int column = 0; column < 2; ++column) seen[tile][column] = rows.keys(row(tile, column));
    }
  }

  // What the warp waits for in its ring: keys or values of a step.
  __device__ uint32_t arrived(int step, int which) {
    shared.full[warp][step % Tile::kStages][which].wait(step / Tile::kStages % 2);
    return shared_address(shared.ring[warp][step % Tile::kStages][which]);
  }

  __device__ void use(int step) {
    float product[Tile::kRowTiles][kKeyTiles][4] = {};
    uint32_t weight[Tile::kRowTiles][kKeyTiles][2];
    multiply_keys(product, arrived(step, 0));
#pragma unroll
    for (int tile = 0; tile < Tile::kRowTiles; ++tile) weigh(tile, product[tile], key(step), weight[tile]);
    uint32_t const values = arrived(step, 1);
    if (key(step) + Tile::kKeysOfWarp > keys.end) clear(values, keys.end - key(step));
    add_values(weight, values);
  }

  // Where a thread's 16 bytes of 16 channels of row `row` are.
  static __device__ uint32_t chunk(uint32_t shared, int channel_tile, int row, int half) {
    int const place = (channel_tile % 4 * 2 + half) ^ row % 8;
    return shared + channel_tile / 4 * Tile::kPartBytes + row * kMapRowBytes + place * kAccessBytes;
  }

  __device__ void multiply_keys(float (&product)[Tile::kRowTiles][kKeyTiles][4], uint32_t from) const {
#pragma unroll
    for (int step = 0; step < kChannelTiles; ++step) {
      uint32_t const place = chunk(from, step, lane % 16, lane / 16);
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) {
        uint32_t k[4];
        load_matrices(k, place + i * 16 * kMapRowBytes);
#pragma unroll
        for (int tile = 0; tile < Tile::kRowTiles; ++tile)
          multiply_add<T>(product[tile][i], k, q[tile][step][0], q[tile][step][1]);
      }
    }
  }

  __device__ void weigh(int tile, float (&product)[kKeyTiles][4], int key, uint32_t (&weight)[kKeyTiles][2]) {
    float const scale = SoftmaxRows::scale_or_logits(a, product);
    bool masked = false;
#pragma unroll
    for (KeyInterval const& each : seen[tile]) masked |= each.begin > key || each.end < key + Tile::kKeysOfWarp;
    if (__any_sync(~0u, masked)) {
#pragma unroll
      for (int i = 0; i < 4 * kKeyTiles; ++i) {
        if (!seen[tile][i % 2].has(key + i / 2 * 8 + lane / 4)) product[i / 4][i % 4] = -INFINITY;
      }
    }
    float factor[2];
    softmax[tile].weigh(product, scale, factor);
    if (__any_sync(~0u, factor[0] != 1.f || factor[1] != 1.f)) {
#pragma unroll
      for (int i = 0; i < 4 * kChannelTiles; ++i) sum[tile][i / 4][i % 4] *= factor[i % 2];
    }
#pragma unroll
    for (int i = 0; i < 2 * kKeyTiles; ++i) {
      float const* const two = &product[i / 2][i % 2 * 2];
      weight[i / 2][i % 2] = transposed_matrix(pack_two<T>(two[0], two[1]));
    }
  }

  // Values that no row sees become zeros, which a weight of 0 leaves so.
  __device__ void clear(uint32_t values, int first) const {
    for (int i = first * 8 + lane; i < Tile::kKeysOfWarp * 8; i += 32) {
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part)
        store_shared_zeros(values + part * Tile::kPartBytes + i * kAccessBytes);
    }
    __syncwarp();
  }
  static __device__ void store_shared_zeros(uint32_t shared) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(shared), "r"(0) : "memory");
  }

  __device__ void add_values(uint32_t const (&weight)[Tile::kRowTiles][kKeyTiles][2], uint32_t from) {
#pragma unroll
    for (int step = 0; step < kChannelTiles; ++step) {
      uint32_t const place = chunk(from, step, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) {
        uint32_t v[4];
        load_matrices_transposed(v, place + i * 16 * kMapRowBytes);
#pragma unroll
        for (int tile = 0; tile < Tile::kRowTiles; ++tile)
          multiply_add<T>(sum[tile][step], v, weight[tile][i][0], weight[tile][i][1]);
      }
    }
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
