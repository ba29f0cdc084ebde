// Of attention within windows of up to 64 tokens: a window in shared memory, its products by mma.sync, its results.
#pragma once

#include "kernels/swin_attention/rows.cuh"

namespace bridge {

// kColumns: of 8 keys. A stage of shared memory is keys, values, and queries, whose rows become those of results. The
// 16-byte chunks of a row are permuted, so that the same one of 8 rows lies in different banks.
template <class T_, int kHeadDim_, int kColumns_>
struct SwinWindowTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kColumns = kColumns_, kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kInChunk = kAccessBytes / sizeof(T), kChunks = kHeadDim / kInChunk;
  static constexpr int kRowBytes = kHeadDim * sizeof(T), kWarpBytes = 16 * kRowBytes;
  static constexpr int kKeys = 8 * kColumns, kKeyBytes = kKeys * kRowBytes;
  static constexpr int kQueriesAt = 2 * kKeyBytes, kTensorsEnd = kQueriesAt + kWarps * kWarpBytes;

  __device__ static uint32_t at(int row, int chunk) {
    int const permuted = chunk ^ (kChunks == 4 ? row / 2 % 4 : row % 8);
    return row * kRowBytes + permuted * kAccessBytes;
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Value>
__device__ Value& shared_at(uint32_t address) {
  return *static_cast<Value*>(__cvta_shared_to_generic(address));
}

// sum[16 × 8] += a[16 × 16 bytes] b[8 × 16 bytes]^T, of 16-bit types: see multiply_add.
template <class T>
__device__ void multiply_add_half(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b);
#define BRIDGE_MULTIPLY_ADD_HALF(type, name)                                                              \
  template <>                                                                                             \
  __device__ inline void multiply_add_half<type>(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t b) { \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." name "." name                                    \
                 ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                               \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                 \
                 : "r"(a0), "r"(a1), "r"(b));                                                             \
  }
BRIDGE_MULTIPLY_ADD_HALF(half, "f16")
BRIDGE_MULTIPLY_ADD_HALF(bfloat16, "bf16")
#undef BRIDGE_MULTIPLY_ADD_HALF

template <class Tile>
struct SwinWindowMma {
  using T = typename Tile::T;
  static constexpr int kColumns = Tile::kColumns, kChunks = Tile::kChunks;
  using Products = float[kColumns][4];
  using Sums = float[kChunks][4];

  // Addresses within a stage, of this thread: its chunk of its first row, which it copies and writes; and the rows that
  // it names for matrices: of 16 rows and 2 chunks, by rows first or by chunks first; of 8 rows and 4 chunks; of its
  // warp's queries, and of as many keys, as far as there are any. Chunks 2 or 4 further differ by one bit.
  uint32_t own, rows_first, chunks_first, eight, queries, keys;

  __device__ SwinWindowMma() {
    int const lane = threadIdx.x % 32, tile = threadIdx.x / 32;
    own = kept(Tile::at(tile * 16 + lane / 4, lane % 4));
    rows_first = kept(Tile::at(lane % 16, lane / 16));
    chunks_first = kept(Tile::at(lane % 8 + lane / 16 * 8, lane / 8 % 2));
    eight = kept(Tile::at(lane % 8, lane / 8));
    queries = kept(Tile::kQueriesAt + tile * Tile::kWarpBytes + rows_first);
    int const beyond = tile * 16 + lane % 16 >= Tile::kKeys ? 8 : 0;
    keys = kept((tile * 16 - beyond) * Tile::kRowBytes + rows_first);
  }
  // What the assembler does not see through: else it computes these again for every window.
  __device__ static uint32_t kept(uint32_t value) { return __shfl_sync(~0u, value, threadIdx.x % 32); }
  __device__ static uint32_t chunks_on(uint32_t address, int chunks) { return address ^ (chunks * kAccessBytes); }

  using Fragments = uint32_t[kChunks / 2][4];

  __device__ static void load_rows(uint32_t stage, uint32_t rows, Fragments& out) {
#pragma unroll
    for (int step = 0; step < kChunks / 2; ++step) load_matrices(out[step], stage + chunks_on(rows, 2 * step));
  }

  // Of 16 rows: the sums of squares of the two that this thread has products of.
  __device__ static void find_squares(Fragments const& rows, float (&squares)[2]) {
    float by_rows[2][4] = {};  // products of all 16 with 8 of them
#pragma unroll
    for (int step = 0; step < kChunks / 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        multiply_add<T>(by_rows[half], rows[step], rows[step][half], rows[step][2 + half]);
    }
    int const row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const diagonal = row % 2 ? by_rows[half][2 * half + 1] : by_rows[half][2 * half];
      squares[half] = __shfl_sync(~0u, diagonal, 4 * row + row / 2);
    }
  }

  // q kᵀ and what is given.
  __device__ void multiply_keys(Fragments const& q, uint32_t stage, Products const& given, Products& product) const {
#pragma unroll
    for (int step = 0; step < kChunks / 2; ++step) {
#pragma unroll
      for (int j = 0; j < kColumns / 2; ++j) {
        uint32_t k[4];
        load_matrices(k, stage + chunks_on(chunks_first, 2 * step) + j * Tile::kWarpBytes);
#pragma unroll
        for (int i = 0; i < 2; ++i)
          multiply(product[2 * j + i], given[2 * j + i], step == 0, q[step], k[2 * i], k[2 * i + 1]);
      }
    }
    if constexpr (kColumns % 2) {
#pragma unroll
      for (int step = 0; step < kChunks / 2; step += 2) {
        uint32_t k[4];
        load_matrices(k, stage + chunks_on(eight, 2 * step) + kColumns / 2 * Tile::kWarpBytes);
#pragma unroll
        for (int i = 0; i < 2; ++i)
          multiply(product[kColumns - 1], given[kColumns - 1], step + i == 0, q[step + i], k[2 * i], k[2 * i + 1]);
      }
    }
  }
  __device__ static void multiply(float (&product)[4], float const (&given)[4], bool first, uint32_t const (&q)[4],
                                  uint32_t low, uint32_t high) {
    if (first) {
      multiply_add_to<T>(product, given, q, low, high);
    } else {
      multiply_add<T>(product, q, low, high);
    }
  }

  // total: of the weights of each row, as they are multiplied, in each of its columns.
  __device__ void add_values(Products const& weight, uint32_t stage, Sums& sum, float (&total)[4]) const {
    uint32_t const ones = pack_two<T>(1.f, 1.f), values = stage + Tile::kKeyBytes;
#pragma unroll
    for (int step = 0; step < kColumns / 2; ++step) {
      uint32_t p[4], v[4];
      pack_weights<T>(weight[2 * step], weight[2 * step + 1], p);
      multiply_add<T>(total, p, ones, ones);
#pragma unroll
      for (int i = 0; i < kChunks; i += 2) {
        load_matrices_transposed(v, values + chunks_on(rows_first, i) + step * Tile::kWarpBytes);
        multiply_add<T>(sum[i], p, v[0], v[1]);
        multiply_add<T>(sum[i + 1], p, v[2], v[3]);
      }
    }
    if constexpr (kColumns % 2) {
      float const(&last)[4] = weight[kColumns - 1];
      uint32_t const p0 = pack_two<T>(last[0], last[1]), p1 = pack_two<T>(last[2], last[3]);
      multiply_add_half<T>(total, p0, p1, ones);
#pragma unroll
      for (int i = 0; i < kChunks; i += 4) {
        uint32_t v[4];
        load_matrices_transposed(v, values + chunks_on(eight, i) + kColumns / 2 * Tile::kWarpBytes);
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add_half<T>(sum[i + j], p0, p1, v[j]);
      }
    }
  }

  // Rows of results, in place of this warp's queries.
  __device__ void stage_results(uint32_t stage, float const (&total)[4], Sums const& sum) const {
    float const factor[2] = {reciprocal_fast(total[0]), reciprocal_fast(total[2])};
#pragma unroll
    for (int i = 0; i < kChunks; i += 2) {
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        int const half = j % 2;
        float const(&of)[4] = sum[i + j / 2];
        word[j] = pack_two<T>(of[2 * half] * factor[half], of[2 * half + 1] * factor[half]);
      }
      store_matrices(stage + chunks_on(queries, i), word);
    }
    __syncwarp();
  }
};

#endif

}  // namespace bridge
