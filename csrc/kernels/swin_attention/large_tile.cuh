// What a block of the kernel of large windows holds in shared memory.
#pragma once

#include "kernels/swin_attention/rows.cuh"

namespace bridge {

// kGroups: of 16 queries, of a warp. kKeys: of a tile.
template <class T_, int kHeadDim_, int kGroups_, int kKeys_, bool kCosine_>
struct SwinLargeTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kGroups = kGroups_, kKeys = kKeys_;
  static constexpr bool kCosine = kCosine_;
  static constexpr int kChunks = kHeadDim * sizeof(T) / kAccessBytes, kInChunk = kAccessBytes / sizeof(T);
  static constexpr int kRowBytes = kHeadDim * sizeof(T), kTileBytes = kKeys * kRowBytes;
  static constexpr int kColumns = kKeys / 8, kSteps = kKeys / 16, kRows = 16 * kGroups;

  // Where a chunk of a row lies in a tensor. Rows are not padded, but their chunks are permuted: those of two rows side
  // by side, and one of each of eight rows, lie in different banks.
  __host__ __device__ static constexpr int place(int row, int chunk) {
    int const mixed = kChunks == 4 ? row >> 1 & 3 : (row & 1) << 2 | (row >> 1 & 3);
    return row * kRowBytes + (chunk ^ mixed) * kAccessBytes;
  }
};

// A block has teams of warps; each team has a window at a time. query_tiles: of a window, of which a block has one.
// stages: of a window's keys, of stage_tiles tiles, of which a team has two in memory. shares: of the windows.
struct SwinLargePlan {
  int warps, teams, query_tiles, stages, stage_tiles, shares;

  __host__ __device__ int threads() const { return 32 * warps; }
  template <class Tile>
  __host__ __device__ int rows() const {
    return warps * Tile::kRows;
  }
  template <class Tile>
  __host__ __device__ int stage_keys() const {
    return stage_tiles * Tile::kKeys;
  }
  // With those beyond the window.
  template <class Tile>
  __host__ __device__ int keys() const {
    return stages * stage_keys<Tile>();
  }
  template <class Tile>
  __host__ __device__ int bias_bytes() const {
    return rows<Tile>() * keys<Tile>() * int(sizeof(typename Tile::T));
  }
  // Offsets of tokens, and sides of each 16: words.
  template <class Tile>
  __host__ __device__ int table_bytes() const {
    return (4 * keys<Tile>() + keys<Tile>() / 4 + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
  }
  template <class Tile>
  __host__ __device__ int tensor_bytes() const {
    return stage_tiles * Tile::kTileBytes;
  }
  template <class Tile>
  __host__ __device__ int query_bytes() const {
    return rows<Tile>() * Tile::kRowBytes;
  }
  // Queries of two windows; two stages of keys and values; 1 / length of the keys of one.
  template <class Tile>
  __host__ __device__ int team_bytes() const {
    return 2 * query_bytes<Tile>() + 4 * tensor_bytes<Tile>() + (Tile::kCosine ? 4 * stage_keys<Tile>() : 0);
  }
  template <class Tile>
  __host__ __device__ int shared_bytes() const {
    return bias_bytes<Tile>() + table_bytes<Tile>() + teams * team_bytes<Tile>();
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

__device__ inline uint4 load_shared_chunk(uint32_t shared) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(shared));
  return value;
}

template <class T>
__device__ float2 floats_of(uint32_t pair);
template <>
__device__ inline float2 floats_of<half>(uint32_t pair) {
  return __half22float2(reinterpret_cast<__half2 const&>(pair));
}
template <>
__device__ inline float2 floats_of<bfloat16>(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}

template <class T>
__device__ float squares_of(uint4 const& chunk) {
  float sum = 0.f;
#pragma unroll
  for (uint32_t word : {chunk.x, chunk.y, chunk.z, chunk.w}) {
    float2 const pair = floats_of<T>(word);
    sum = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sum));
  }
  return sum;
}
__device__ inline float inverse_length_of(float squares) { return rsqrtf(fmaxf(squares, kLeastNorm * kLeastNorm)); }

#endif

}  // namespace bridge
