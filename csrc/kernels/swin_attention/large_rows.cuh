// Attention of the rows of one warp within a large window, tile after tile of keys.
//
// Channels are multiplied in an order that lets a thread read 16 bytes of a row at once, of queries and keys alike: the
// four threads of a row have a chunk each, and of each chunk the first two words are one step of 16 channels, the last
// two another.
#pragma once

#include "kernels/swin_attention/large_tile.cuh"

namespace bridge {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// A tile of keys: where it and its values begin in shared memory, and the bias of the first 16 rows of the warp; the
// bytes from that to the bias of the next 16; 1 / length of the keys.
struct SwinLargeKeys {
  uint32_t keys, values, bias, bias_step;
  float const* lengths;
};

template <class Tile>
struct SwinLargeRows {
  using T = typename Tile::T;
  static constexpr int kColumns = Tile::kColumns, kGroups = Tile::kGroups, kChunks = Tile::kChunks;
  using Products = float[kGroups][kColumns][4];

  int const lane = threadIdx.x % 32;
  uint32_t key_chunk;                 // this thread's chunk of the first eight keys
  uint32_t value_chunk[kChunks / 2];  // the same of the first sixteen values, for each 16 channels
  uint32_t q[kGroups][kChunks / 2][4];
  float sum[kGroups][Tile::kHeadDim / 8][4], total[kGroups][4], top[kGroups][2];
  float factor[kGroups][2];  // of products to logits of base 2
  float unit;                // of what is added to products, or to logits where they are cosines

  __device__ SwinLargeRows() : key_chunk(Tile::place(lane / 4, lane % 4)) {
#pragma unroll
    for (int j = 0; j < kChunks / 2; ++j) value_chunk[j] = Tile::place(lane % 16, 2 * j + lane / 16);
  }

  // From queries in shared memory, of which the warp's begin with row `first`.
  __device__ void begin(uint32_t queries, int first, float scale) {
    unit = Tile::kCosine ? kLog2E : kLog2E / scale;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float squares = 0.f;
#pragma unroll
        for (int more = 0; more < kChunks; more += 4) {
          uint4 const chunk =
              load_shared_chunk(queries + Tile::place(first + 16 * g + 8 * half + lane / 4, lane % 4 + more));
          q[g][more / 2][half] = chunk.x, q[g][more / 2][2 + half] = chunk.y;
          q[g][more / 2 + 1][half] = chunk.z, q[g][more / 2 + 1][2 + half] = chunk.w;
          if (Tile::kCosine) squares += squares_of<T>(chunk);
        }
        factor[g][half] = Tile::kCosine ? scale * inverse_length_of(sum_of_row(squares)) : scale;
        top[g][half] = -INFINITY;
      }
#pragma unroll
      for (auto& each : sum[g]) each[0] = each[1] = each[2] = each[3] = 0.f;
      total[g][0] = total[g][1] = total[g][2] = total[g][3] = 0.f;
    }
  }

  __device__ void multiply_keys(uint32_t keys, Products& product) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      uint32_t k[kChunks / 2][2];
#pragma unroll
      for (int more = 0; more < kChunks; more += 4) {
        uint4 const chunk = load_shared_chunk(keys + (key_chunk ^ more * kAccessBytes) + 8 * i * Tile::kRowBytes);
        k[more / 2][0] = chunk.x, k[more / 2][1] = chunk.y, k[more / 2 + 1][0] = chunk.z, k[more / 2 + 1][1] = chunk.w;
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        constexpr float kNone[4] = {};
        multiply_add_to<T>(product[g][i], kNone, q[g][0], k[0][0], k[0][1]);
#pragma unroll
        for (int step = 1; step < kChunks / 2; ++step)
          multiply_add<T>(product[g][i], q[g][step], k[step][0], k[step][1]);
      }
    }
  }

  // Cosines become logits of base 2; other products become these once they are multiplied by `factor`.
  __device__ void add_bias(SwinLargeKeys const& keys, Products& product) const {
    float const* const lengths = keys.lengths + lane % 4 * 2;
    uint32_t const own = keys.bias + lane * kAccessBytes;
#pragma unroll
    for (int s = 0; s < Tile::kSteps; ++s) {
      float2 inverse[2];
      if (Tile::kCosine) {
#pragma unroll
        for (int i = 0; i < 2; ++i) inverse[i] = *reinterpret_cast<float2 const*>(lengths + 16 * s + 8 * i);
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        uint4 const chunk = load_shared_chunk(own + g * keys.bias_step + 32 * s * kAccessBytes);
        uint32_t const words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float2 const value = floats_of<T>(words[j]);
          float &x = product[g][2 * s + j / 2][j % 2 * 2], &y = product[g][2 * s + j / 2][j % 2 * 2 + 1];
          if (Tile::kCosine) {
            x = fmaf(x * inverse[j / 2].x, factor[g][j % 2], value.x * unit);
            y = fmaf(y * inverse[j / 2].y, factor[g][j % 2], value.y * unit);
          } else {
            x = fmaf(value.x, unit, x), y = fmaf(value.y, unit, y);
          }
        }
      }
    }
  }

  // Products become weights, and earlier sums are scaled for the same largest logit.
  __device__ void weigh(Products& product) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      float const scale = Tile::kCosine ? 1.f : factor[g][0];
      float base[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = fmaxf(product[g][0][2 * half], product[g][0][2 * half + 1]);
#pragma unroll
        for (int i = 1; i < kColumns; ++i)
          largest = fmaxf(largest, fmaxf(product[g][i][2 * half], product[g][i][2 * half + 1]));
        float const next = fmaxf(top[g][half], scale * max_of_row(largest));
        base[half] = finite_top(next);
        shrink(g, half, exp2_fast(top[g][half] - base[half]));
        top[g][half] = next;
      }
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) product[g][i][j] = exp2_fast(fmaf(product[g][i][j], scale, -base[j / 2]));
      }
    }
  }
  __device__ void shrink(int g, int half, float by) {
#pragma unroll
    for (auto& each : sum[g]) each[2 * half] *= by, each[2 * half + 1] *= by;
    total[g][2 * half] *= by;
  }

  __device__ void add_values(uint32_t values, Products const& weight) {
    uint32_t const ones = pack_two<T>(1.f, 1.f);
#pragma unroll
    for (int s = 0; s < Tile::kSteps; ++s) {
      uint32_t p[kGroups][4];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        pack_weights<T>(weight[g][2 * s], weight[g][2 * s + 1], p[g]);
        multiply_add<T>(total[g], p[g], ones, ones);
      }
#pragma unroll
      for (int j = 0; j < kChunks / 2; ++j) {
        uint32_t v[4];
        load_matrices_transposed(v, values + value_chunk[j] + 16 * s * Tile::kRowBytes);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          multiply_add<T>(sum[g][2 * j], p[g], v[0], v[1]);
          multiply_add<T>(sum[g][2 * j + 1], p[g], v[2], v[3]);
        }
      }
    }
  }

  // The results of one row, of which four threads get a chunk each.
  __device__ void finish(int g, int half, int first, uint32_t (&word)[4]) const {
    float const inverse = reciprocal_fast(total[g][2 * half]);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      word[j] = pack_two<T>(sum[g][first + j][2 * half] * inverse, sum[g][first + j][2 * half + 1] * inverse);
    transpose_quad(word);
  }
};

#endif

}  // namespace bridge
