// Of tensor-core kernels of attention within windows: where a thread's rows lie in a map, and of the kernel that walks
// tiles of keys, tensors in shared memory, products, results.
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
// Of each it copies and writes the chunk `chunk`, and every fourth after that. in, out: of the chunk's offsets in q, k
// and v, and in the result, that part which is the same for all windows.
struct SwinRows {
  int token[2], side[2], in[2], out[2];
  bool inside[2];

  template <class T>
  __device__ SwinRows(SwinArguments<T> const& a, int head, int first) {
    constexpr int kInChunk = kAccessBytes / sizeof(T);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      token[half] = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
      inside[half] = token[half] < a.windows.tokens();
      side[half] = side_of(a.windows, token[half]);
      MapPosition const part = token_position(a.windows, token[half]);
      int const channel = chunk() * kInChunk;
      in[half] = offset_of(a.q.strides, part.y, part.x) + head * static_cast<int>(a.q.strides.head) + channel;
      out[half] = offset_of(a.out.strides, part.y, part.x) + head * static_cast<int>(a.out.strides.head) + channel;
    }
  }
  static __device__ int chunk() { return threadIdx.x % 4; }

  // Offsets are below 2^31: see takes_swin_tiles.
  static __device__ int offset_of(SwinStrides const& step, int y, int x) {
    return y * static_cast<int>(step.y) + x * static_cast<int>(step.x);
  }
  // What is the same for all tokens of a window.
  static __device__ int first(SwinStrides const& step, SwinWindows const& windows, SwinPlace const& window) {
    return window.image * static_cast<int>(step.image) +
           offset_of(step, window.y * windows.window_step_y, window.x * windows.window_step_x);
  }
  // Back around the map's end, for a row on its other side. edges: as `edges_of`.
  __device__ int around(SwinStrides const& step, SwinWindows const& windows, int edges, int half) const {
    int const y = edges & side[half] & 1 ? windows.map_height : 0, x = edges & side[half] & 2 ? windows.map_width : 0;
    return offset_of(step, y, x);
  }
};

// As copy_async_or_zero. L2 gets the 128 bytes around them, too: other blocks copy what other heads have of a token.
__device__ inline void copy_line_or_zero(uint32_t shared, void const* global, bool copies) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(copies ? 16 : 0)
               : "memory");
}

template <class Tile>
struct SwinMma {
  using T = typename Tile::T;

  // Where this thread's chunk of its first row lies in a tensor's tile.
  __device__ static uint32_t chunk_address(uint32_t shared) {
    return shared + (threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4) * Tile::kRowBytes + SwinRows::chunk() * kAccessBytes;
  }
  // Whether head_dim has the chunk that is `more` after this thread's first.
  __device__ static bool has_chunk(SwinArguments<T> const& a, int more) {
    return (SwinRows::chunk() + more) * Tile::kInChunk < a.head_dim;
  }

  // This thread's rows of tensors with the strides of q, each to its tile, as far as the window and head_dim have them.
  // Other channels stay as they are; other rows become zeros.
  template <int kTensors>
  __device__ static void copy(SwinArguments<T> const& a, T const* const (&tensors)[kTensors], SwinPlace const& window,
                              SwinRows const& rows, uint32_t shared) {
    int const first = SwinRows::first(a.q.strides, a.windows, window), edges = edges_of(a.windows, window);
    uint32_t const to = chunk_address(shared);
    int back[2] = {};
    if (edges) {
#pragma unroll
      for (int half = 0; half < 2; ++half) back[half] = rows.around(a.q.strides, a.windows, edges, half);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const offset = rows.inside[half] ? first + rows.in[half] - back[half] : 0;
#pragma unroll
      for (int more = 0; more < Tile::kChunks; more += 4) {
        if (!has_chunk(a, more)) continue;
#pragma unroll
        for (int n = 0; n < kTensors; ++n) {
          uint32_t const place = to + 8 * half * Tile::kRowBytes + n * Tile::kTensorBytes + more * kAccessBytes;
          copy_line_or_zero(place, tensors[n] + offset + more * Tile::kInChunk, rows.inside[half]);
        }
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

  // q kᵀ and what is given.
  __device__ static void multiply_keys(Fragments const& q, uint32_t shared_k, Products const& given,
                                       Products& product) {
    int const lane = threadIdx.x % 32;
    uint32_t const right = shared_k + (lane % 8 + lane / 16 * 8) * Tile::kRowBytes + lane / 8 % 2 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < Tile::kChunks / 2; ++step) {
#pragma unroll
      for (int j = 0; j < Tile::kKeySteps; ++j) {
        uint32_t k[4];
        load_matrices(k, right + 16 * j * Tile::kRowBytes + 2 * step * kAccessBytes);
#pragma unroll
        for (int i = 2 * j; i < 2 * j + 2 && i < Tile::kColumns; ++i) {
          uint32_t const low = k[i % 2 * 2], high = k[i % 2 * 2 + 1];
          if (step == 0) {
            multiply_add_to<T>(product[i], given[i], q[step], low, high);
          } else {
            multiply_add<T>(product[i], q[step], low, high);
          }
        }
      }
    }
  }

  // total: of the weights of each row, as they are multiplied, in each of its columns.
  __device__ static void add_values(Products const& weight, uint32_t shared_v, Sums& sum, float (&total)[4]) {
    constexpr float kNone[4] = {};
    uint32_t const ones = pack_two<T>(1.f, 1.f);
    int const lane = threadIdx.x % 32;
    uint32_t const right = shared_v + lane % 16 * Tile::kRowBytes + lane / 16 * kAccessBytes;
#pragma unroll
    for (int step = 0; step < Tile::kKeySteps; ++step) {
      uint32_t p[4];
      pack_weights<T>(weight[2 * step], 2 * step + 1 < Tile::kColumns ? weight[2 * step + 1] : kNone, p);
      multiply_add<T>(total, p, ones, ones);
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

  // The rows of results, from sums of values and totals of weights.
  __device__ static void write(SwinArguments<T> const& a, SwinPlace const& window, SwinRows const& rows,
                               float const (&total)[4], Sums const& sum) {
    int const first = SwinRows::first(a.out.strides, a.windows, window), edges = edges_of(a.windows, window);
    int back[2] = {};
    if (edges) {
#pragma unroll
      for (int half = 0; half < 2; ++half) back[half] = rows.around(a.out.strides, a.windows, edges, half);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float const factor = reciprocal_fast(total[2 * half]);
      T* const to = a.out.data + (first + rows.out[half] - back[half]);
#pragma unroll
      for (int i = 0; i < Tile::kHeadDim / 8; i += 4) {
        uint32_t word[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          word[j] = pack_two<T>(sum[i + j][2 * half] * factor, sum[i + j][2 * half + 1] * factor);
        transpose_quad(word);
        if (rows.inside[half] && has_chunk(a, i)) store_chunk(to + i * Tile::kInChunk, word);
      }
    }
  }
};

#endif

}  // namespace bridge
