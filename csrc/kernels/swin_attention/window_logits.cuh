// Of attention within windows of up to 64 tokens: from products of queries and keys to weights.
#pragma once

#include "kernels/swin_attention/window_tile.cuh"

namespace bridge {

constexpr int kSwinLengthBytes = 64 * sizeof(float);  // of a window's keys
constexpr int kSwinStageUnit = 128;                   // bytes

// stages: windows in shared memory, 2 or 3. stage_bytes: of each, with the lengths of keys and the window's mask. most:
// windows of a block, of which there may be one less.
struct SwinWindowPlan {
  int stages, stage_bytes, most;
};

// Logits of base 2 are factor (q k + bias), of a bias that is divided by the factor.
template <class T>
bool plain_swin_logits(SwinArguments<T> const& a) {
  return !a.cosine() && a.scale * kLog2E > kLeastFactor;
}

// Of a mask, from the 16 bytes with its first one to those with its last one.
template <class Tile, class T>
int swin_stage_bytes(SwinArguments<T> const& a, bool plain) {
  int const tokens = a.windows.tokens(), mask = tokens * tokens * int(a.mask.wide ? sizeof(float) : sizeof(T));
  int const bytes = Tile::kTensorsEnd + (plain ? 0 : kSwinLengthBytes) + (a.mask.data ? mask + kAccessBytes : 0);
  return (bytes + kSwinStageUnit - 1) / kSwinStageUnit * kSwinStageUnit;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile, bool kPlain>
struct SwinLogits {
  using T = typename Tile::T;
  static constexpr int kColumns = Tile::kColumns, kCount = 4 * kColumns;
  static constexpr int kLengthsAt = Tile::kTensorsEnd, kMaskAt = kLengthsAt + (kPlain ? 0 : kSwinLengthBytes);
  using Products = float[kColumns][4];

  float factor, unit;  // unit: of what is added to products, or to logits of base 2 where they are not plain
  Products bias;       // in these units; -inf where there is no key
  uint32_t apart[2];   // of each axis, a bit for each of `bias`: whether row and column are on different sides
  float scale[2];      // of each row, where logits are not plain

  __device__ SwinLogits(SwinArguments<T> const& a, int head)
      : factor(a.factor(head)), unit(kPlain ? kLog2E / factor : kLog2E), apart{}, scale{factor, factor} {}

  // Of each logit of this thread, its row and key.
  __device__ static int half_of(int i) { return i % 4 / 2; }
  __device__ static int key_of(int i) { return first_column() + i / 4 * 8 + i % 2; }
  __device__ static int first_column() { return threadIdx.x % 4 * 2; }

  // ---- what is the same for all windows ----

  __device__ void prepare(SwinArguments<T> const& a, SwinRows const& rows, int head) {
    int64_t const first = int64_t(head) * a.windows.tokens() * a.windows.tokens();
    if (!a.bias.data) {
      find_bias(a, rows, [](int) { return 0.f; });
    } else if (a.bias.wide) {
      find_bias(a, rows, [table = static_cast<float const*>(a.bias.data) + first](int at) { return table[at]; });
    } else {
      find_bias(a, rows, [table = static_cast<T const*>(a.bias.data) + first](int at) { return to_float(table[at]); });
    }
    if (a.shift_mask != 0.f && (a.windows.shift_y > 0 || a.windows.shift_x > 0)) find_apart(a, rows);
  }
  // All is read before anything is computed.
  template <class Table>
  __device__ void find_bias(SwinArguments<T> const& a, SwinRows const& rows, Table const& table) {
    int const tokens = a.windows.tokens();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      bool const has = key_of(i) < tokens && rows.token[half_of(i)] < tokens;
      bias[i / 4][i % 4] = has ? table(rows.token[half_of(i)] * tokens + key_of(i)) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float& value = bias[i / 4][i % 4];
      value = key_of(i) < tokens ? unit * value : -INFINITY;
    }
  }
  __device__ void find_apart(SwinArguments<T> const& a, SwinRows const& rows) {
    SwinWindows const& w = a.windows;
    constexpr uint32_t kOfHalf[] = {0x33333333, 0xcccccccc};
    uint32_t const per_row = (1 << 16) / w.width + 1;  // key / width is key * per_row >> 16, of keys below 64
#pragma unroll
    for (int i = 0; i < kCount; i += i % 4 ? 3 : 1) {
      int const key = key_of(i), y = key * per_row >> 16, x = key - y * w.width;
      apart[0] |= uint32_t(y >= w.height - w.shift_y) * 5 << i, apart[1] |= uint32_t(x >= w.width - w.shift_x) * 5 << i;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (rows.side[half] & 1) apart[0] ^= kOfHalf[half];
      if (rows.side[half] & 2) apart[1] ^= kOfHalf[half];
    }
  }

  // ---- of a window ----

  // Masks lie one after another, whatever the size of one: whole chunks of 16 bytes from the one before its first byte.
  // The last one of all may end within a chunk, of which nothing is read that lies beyond: an asynchronous copy of less
  // than it writes would read no more, but memcheck counts the whole.
  __device__ static void copy_mask(SwinArguments<T> const& a, int index, uint32_t stage) {
    int const bytes = mask_bytes(a);
    int64_t const begin = int64_t(index % a.masks) * bytes, first = begin & ~int64_t(kAccessBytes - 1);
    int64_t const left = int64_t(a.masks) * bytes - first;
    auto const* const from = static_cast<unsigned char const*>(a.mask.data) + first;
    for (int at = threadIdx.x * kAccessBytes; at < begin - first + bytes; at += Tile::kThreads * kAccessBytes) {
      uint32_t const to = stage + kMaskAt + at;
      if (left - at >= kAccessBytes) {
        copy_async(to, from + at);
      } else {
        for (int i = 0; i < left - at; ++i) shared_at<unsigned char>(to + i) = from[at + i];
      }
    }
  }
  __device__ static int mask_bytes(SwinArguments<T> const& a) {
    return a.windows.tokens() * a.windows.tokens() * (a.mask.wide ? sizeof(float) : sizeof(T));
  }

  __device__ void add_mask(SwinArguments<T> const& a, SwinRows const& rows, int index, uint32_t stage,
                           Products& product) const {
    uint32_t const skipped = uint32_t(index % a.masks) * uint32_t(mask_bytes(a)) % kAccessBytes;
    if (a.mask.wide) {
      add_mask<float>(a.windows.tokens(), rows, stage + kMaskAt + skipped, product);
    } else {
      add_mask<T>(a.windows.tokens(), rows, stage + kMaskAt + skipped, product);
    }
  }
  // A row that there is not has the mask of the last one, and counts for nothing.
  template <class Element>
  __device__ void add_mask(int tokens, SwinRows const& rows, uint32_t mask, Products& product) const {
    uint32_t from[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      from[half] = mask + (min(rows.token[half], tokens - 1) * tokens + first_column()) * int(sizeof(Element));
    int const left = tokens - first_column();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      int const key = i / 4 * 8 + i % 2;
      float& sum = product[i / 4][i % 4];
      if (key < left)
        sum = fmaf(unit, to_float(shared_at<Element const>(from[half_of(i)] + key * sizeof(Element))), sum);
    }
  }

  using Mma = SwinWindowMma<Tile>;

  // 1 / length of as many keys as the warp has queries; no warp waits for others.
  __device__ static void find_lengths(SwinArguments<T> const& a, SwinRows const& rows, uint32_t stage, uint32_t keys) {
    if (!a.cosine()) return;
    __syncwarp();
    typename Mma::Fragments k;
    float inverse[2];
    Mma::load_rows(stage, keys, k);
    find_inverse_lengths(k, inverse);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (SwinRows::chunk() == 0)
        shared_at<float>(stage + kLengthsAt + rows.token[half] * sizeof(float)) = inverse[half];
    }
  }
  __device__ static void find_inverse_lengths(typename Mma::Fragments const& rows, float (&inverse)[2]) {
    float squares[2];
    Mma::find_squares(rows, squares);
#pragma unroll
    for (int half = 0; half < 2; ++half) inverse[half] = rsqrtf(fmaxf(squares[half], kLeastNorm * kLeastNorm));
  }

  __device__ void find_scale(SwinArguments<T> const& a, typename Mma::Fragments const& q) {
    if (!a.cosine()) return;
    find_inverse_lengths(q, scale);
#pragma unroll
    for (float& each : scale) each *= factor;
  }

  __device__ void scale_and_bias(SwinArguments<T> const& a, uint32_t stage, Products& product) const {
    if (a.cosine()) {
      uint32_t const keys = stage + kLengthsAt + first_column() * sizeof(float);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        float2 const inverse = shared_at<float2 const>(keys + 8 * i * sizeof(float));
#pragma unroll
        for (int j = 0; j < 4; ++j) product[i][j] *= j % 2 ? inverse.y : inverse.x;
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float& value = product[i / 4][i % 4];
      value = fmaf(value, scale[half_of(i)], bias[i / 4][i % 4]);
    }
  }

  __device__ void hide(SwinArguments<T> const& a, int edges, Products& product) const {
    uint32_t const hidden = (edges & 1 ? apart[0] : 0) | (edges & 2 ? apart[1] : 0);
    float const value = a.shift_mask * unit;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (hidden & 1u << i) product[i / 4][i % 4] += value;
    }
  }

  __device__ void weigh(Products& product) const {
    float const scale = kPlain ? factor : 1.f;
    float base[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = fmaxf(product[0][2 * half], product[0][2 * half + 1]);
#pragma unroll
      for (int i = 1; i < kColumns; ++i)
        largest = fmaxf(largest, fmaxf(product[i][2 * half], product[i][2 * half + 1]));
      base[half] = finite_top(scale * max_of_row(largest));
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float& value = product[i / 4][i % 4];
      value = exp2_fast(fmaf(value, scale, -base[half_of(i)]));
    }
  }
};

#endif

}  // namespace bridge
