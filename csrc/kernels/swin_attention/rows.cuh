// Pieces of both tensor-core kernels of attention within windows: tensors in shared memory, products, logits, results.
//
// A warp has 16 rows of a tile of queries. Its threads copy and write the rows whose sums they hold: two each, 8 apart.
#pragma once

#include "kernels/swin_attention/arguments.cuh"

namespace bridge {

// kTokens: rows of a tile of queries, and of keys. kColumns: of 8 keys.
template <class T_, int kHeadDim_, int kTokens_, int kColumns_>
struct SwinTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kTokens = kTokens_, kColumns = kColumns_;
  static constexpr int kWarps = kTokens / 16, kThreads = 32 * kWarps;
  static constexpr int kChunks = kHeadDim * sizeof(T) / kAccessBytes, kInChunk = kAccessBytes / sizeof(T);
  static constexpr int kKeySteps = (kColumns + 1) / 2;  // of 16 keys
  // Rows in shared memory are 16 bytes apart beyond their width, so that 8 of them lie in different banks.
  static constexpr int kRowBytes = kHeadDim * sizeof(T) + kAccessBytes, kTensorBytes = kTokens * kRowBytes;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Two rows of the tile of tokens that begins with `first`: the one that this thread has sums of, and the one 8 after.
struct SwinRows {
  int token[2];
  bool inside[2];
  MapPosition part[2];  // of their positions

  __device__ SwinRows(SwinWindows const& windows, int first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      token[half] = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
      inside[half] = token[half] < windows.tokens();
      part[half] = token_position(windows, token[half]);
    }
  }

  // Of the first channel of the head. Within an image offsets are below 2^31: see takes_swin_tiles.
  template <class T>
  __device__ T* at(SwinTensor<T> const& tensor, SwinWindows const& windows, SwinPlace const& window, int head,
                   int half) const {
    MapPosition const place = position(windows, window, part[half]);
    int const offset = place.y * static_cast<int>(tensor.strides.y) + place.x * static_cast<int>(tensor.strides.x);
    return tensor.data + (window.image * tensor.strides.image + head * tensor.strides.head) + offset;
  }
};

template <class Tile>
struct SwinMma {
  using T = typename Tile::T;

  __device__ static int chunk() { return threadIdx.x % 4; }
  // Where this thread's rows lie in a tensor's tile.
  __device__ static uint32_t row_address(uint32_t shared, int half) {
    return shared + (threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half) * Tile::kRowBytes;
  }

  // This thread's rows, as far as the window and head_dim have them; other channels stay as they are, and other rows,
  // or these are made zeros.
  template <bool kZeros>
  __device__ static void copy(SwinArguments<T> const& a, SwinTensor<T const> const& tensor, SwinPlace const& window,
                              int head, SwinRows const& rows, uint32_t shared) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!kZeros && !rows.inside[half]) continue;
      T const* const from = rows.inside[half] ? rows.at(tensor, a.windows, window, head, half) : tensor.data;
#pragma unroll
      for (int i = 0; i < Tile::kChunks; i += 4) {
        int const place = (i + chunk()) * kAccessBytes, channel = (i + chunk()) * Tile::kInChunk;
        if (channel < a.head_dim)
          copy_async_or_zero(row_address(shared, half) + place, from + channel, rows.inside[half]);
      }
    }
  }

  __device__ static void clear(unsigned char* memory, int bytes) {
    for (int i = threadIdx.x * kAccessBytes; i < bytes; i += Tile::kThreads * kAccessBytes)
      *reinterpret_cast<uint4*>(memory + i) = {0, 0, 0, 0};
  }

  using Fragments = uint32_t[Tile::kChunks / 2][4];
  using Products = float[Tile::kColumns][4];
  using Sums = float[Tile::kHeadDim / 8][4];

  __device__ static void load_queries(uint32_t shared_q, Fragments& q) {
    int const lane = threadIdx.x % 32;
    uint32_t const left = shared_q + (threadIdx.x / 32 * 16 + lane % 16) * Tile::kRowBytes + lane / 16 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < Tile::kChunks / 2; ++step) load_matrices(q[step], left + 2 * step * kAccessBytes);
  }

  __device__ static void multiply_keys(Fragments const& q, uint32_t shared_k, Products& product) {
    int const lane = threadIdx.x % 32;
    uint32_t const right = shared_k + (lane % 8 + lane / 16 * 8) * Tile::kRowBytes + lane / 8 % 2 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < Tile::kChunks / 2; ++step) {
#pragma unroll
      for (int j = 0; j < Tile::kKeySteps; ++j) {
        uint32_t k[4];
        load_matrices(k, right + 16 * j * Tile::kRowBytes + 2 * step * kAccessBytes);
        multiply_add<T>(product[2 * j], q[step], k[0], k[1]);
        if (2 * j + 1 < Tile::kColumns) multiply_add<T>(product[2 * j + 1], q[step], k[2], k[3]);
      }
    }
  }

  __device__ static void add_values(Products const& weight, uint32_t shared_v, Sums& sum) {
    constexpr float kNone[4] = {};
    int const lane = threadIdx.x % 32;
    uint32_t const right = shared_v + lane % 16 * Tile::kRowBytes + lane / 16 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < Tile::kKeySteps; ++step) {
      uint32_t p[4];
      pack_weights<T>(weight[2 * step], 2 * step + 1 < Tile::kColumns ? weight[2 * step + 1] : kNone, p);
#pragma unroll
      for (int j = 0; j < Tile::kChunks / 2; ++j) {
        uint32_t v[4];
        load_matrices_transposed(v, right + 16 * step * Tile::kRowBytes + 2 * j * kAccessBytes);
        multiply_add<T>(sum[2 * j], p, v[0], v[1]);
        multiply_add<T>(sum[2 * j + 1], p, v[2], v[3]);
      }
    }
  }

  // 1 / length of a row in shared memory, whose 16-bit channels beyond head_dim are zeros.
  __device__ static float inverse_length(unsigned char const* row) {
    float squares = 0.f;
#pragma unroll
    for (int i = 0; i < Tile::kChunks; ++i) {
      auto const values = *reinterpret_cast<Vec<T, Tile::kInChunk> const*>(row + i * kAccessBytes);
#pragma unroll
      for (T const& each : values.lane) squares = fmaf(to_float(each), to_float(each), squares);
    }
    return rsqrtf(fmaxf(squares, kLeastNorm * kLeastNorm));
  }

  // The rows of results, from sums of values.
  __device__ static void write(SwinArguments<T> const& a, SwinPlace const& window, int head, SwinRows const& rows,
                               OnlineSoftmax const& softmax, Sums const& sum) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const factor = 1.f / softmax.total[half];
      T* const to = rows.at(a.out, a.windows, window, head, half);
#pragma unroll
      for (int i = 0; i < Tile::kHeadDim / 8; i += 4) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          word[j] = pack_two<T>(sum[i + j][2 * half] * factor, sum[i + j][2 * half + 1] * factor);
        transpose_quad(word);
        int const channel = (i + chunk()) * Tile::kInChunk;
        if (rows.inside[half] && channel < a.head_dim)
          *reinterpret_cast<uint4*>(to + channel) = {word[0], word[1], word[2], word[3]};
      }
    }
  }
};

#endif

}  // namespace bridge
