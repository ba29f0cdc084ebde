// Attention within windows of up to 64 tokens by mma.sync, from compute capability 8.0 on. A block has one head, whose
// bias its threads hold in registers, and walks windows: the next ones come while one is computed.
#pragma once

#include "kernels/swin_attention/rows.cuh"

namespace bridge {

constexpr float kLeastFactor = 1e-20f;  // that a bias is divided by

// stages: windows in shared memory, 2 or 3. mask_bytes: of a stage, for the window's mask; 0: there are none.
struct SwinStages {
  int stages, mask_bytes;
};

template <class Tile>
__host__ __device__ constexpr int swin_shared_bytes(SwinStages stages) {
  constexpr int kLengths = 2 * Tile::kTokens * sizeof(float);
  return kLengths + stages.stages * (3 * Tile::kTensorBytes + stages.mask_bytes);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile>
struct SwinWindow {
  using T = typename Tile::T;
  using Mma = SwinMma<Tile>;
  static constexpr int kColumns = Tile::kColumns;

  SwinArguments<T> const& a;
  SwinStages stages;
  unsigned char* memory;
  int head;
  SwinRows rows;
  bool plain;                       // logits of base 2 are factor (q k + bias); and else bias is of these logits
  float factor, bias[kColumns][4];  // -inf where there is no key
  uint32_t apart[2];  // of each axis, a bit for each of `bias`: whether row and column are on different sides

  __device__ SwinWindow(SwinArguments<T> const& a, SwinStages stages, unsigned char* memory, int head)
      : a(a), stages(stages), memory(memory), head(head), rows(a, head, 0), factor(a.factor(head)), apart{} {
    plain = !a.cosine() && factor > kLeastFactor;
  }

  // Of each logit of this thread, its row and key.
  __device__ int row_of(int i) const { return rows.token[i % 4 / 2]; }
  __device__ static int key_of(int i) { return first_column() + i / 4 * 8 + i % 2; }

  // What is the same for all windows.
  __device__ void prepare() {
    int64_t const first = int64_t(head) * a.windows.tokens() * a.windows.tokens();
    if (!a.bias.data) {
      find_bias([](int) { return 0.f; });
    } else if (a.bias.wide) {
      find_bias([table = static_cast<float const*>(a.bias.data) + first](int at) { return table[at]; });
    } else {
      find_bias([table = static_cast<T const*>(a.bias.data) + first](int at) { return to_float(table[at]); });
    }
    if (a.shift_mask != 0.f && (a.windows.shift_y > 0 || a.windows.shift_x > 0)) find_apart();
  }
  // All is read before anything is computed.
  template <class Table>
  __device__ void find_bias(Table const& table) {
    float const unit = plain ? kLog2E / factor : kLog2E;
    int const tokens = a.windows.tokens();
#pragma unroll
    for (int i = 0; i < 4 * kColumns; ++i) {
      bool const has = key_of(i) < tokens && row_of(i) < tokens;
      bias[i / 4][i % 4] = has ? table(row_of(i) * tokens + key_of(i)) : 0.f;
    }
#pragma unroll
    for (int i = 0; i < 4 * kColumns; ++i) {
      float& value = bias[i / 4][i % 4];
      value = key_of(i) < tokens ? unit * value : -INFINITY;
    }
  }
  __device__ void find_apart() {
#pragma unroll
    for (int i = 0; i < 4 * kColumns; ++i) {
      if (i % 4 > 1) continue;
      int const side = side_of(a.windows, key_of(i));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const sides = rows.side[half] ^ side, at = i + 2 * half;
        apart[0] |= uint32_t(sides & 1) << at, apart[1] |= uint32_t(sides >> 1) << at;
      }
    }
  }

  static __device__ int first_column() { return threadIdx.x % 4 * 2; }
  __device__ float* lengths() const { return reinterpret_cast<float*>(memory); }
  __device__ unsigned char* stage(int index) const {
    return memory + 2 * Tile::kTokens * sizeof(float) + index * (3 * Tile::kTensorBytes + stages.mask_bytes);
  }

  __device__ void copy(SwinPlace const& window, int index, int to) const {
    uint32_t const shared = shared_address(stage(to));
    T const* const tensors[] = {a.q.data, a.k.data, a.v.data};
    Mma::template copy<false>(a, tensors, window, rows, shared);
    if (a.mask.data) copy_mask(index, stage(to) + 3 * Tile::kTensorBytes);
  }

  // Masks lie one after another, whatever the size of one: whole chunks of 16 bytes from the one before its first byte.
  // The last one of all may end within a chunk, of which nothing may be read that lies beyond.
  __device__ void copy_mask(int index, unsigned char* to) const {
    int64_t const bytes = mask_size(), begin = (index % a.masks) * bytes, end = a.masks * bytes;
    int64_t const first = begin & ~int64_t(kAccessBytes - 1);
    auto const* const from = static_cast<unsigned char const*>(a.mask.data);
    for (int64_t at = first + threadIdx.x * kAccessBytes; at < begin + bytes; at += Tile::kThreads * kAccessBytes)
      if (end - at >= kAccessBytes) {
        copy_async(shared_address(to + (at - first)), from + at);
      } else {
        copy_bytes(to + (at - first), from + at, static_cast<int>(end - at));
      }
  }
  static __device__ void copy_bytes(unsigned char* to, unsigned char const* from, int bytes) {
    for (int i = 0; i < bytes; ++i) to[i] = from[i];
  }
  __device__ int64_t mask_size() const {
    return int64_t(a.windows.tokens()) * a.windows.tokens() * (a.mask.wide ? sizeof(float) : sizeof(T));
  }

  __device__ void walk(int first, int step, int count) {
    SwinPlace next = SwinPlace::of(a.windows, first), window = next;
    SwinPlace const steps = SwinPlace::of(a.windows, step);
    int64_t to_copy = first;  // up to 2 steps beyond the last
    int into = 0, from = 0;
    auto copy_next = [&] {
      if (to_copy < count) copy(next, static_cast<int>(to_copy), into);
      commit_copies();
      next.advance(a.windows, steps), to_copy += step;
      into = into + 1 == stages.stages ? 0 : into + 1;
    };
    for (int i = 1; i < stages.stages; ++i) copy_next();
    prepare();
    for (int64_t index = first; index < count; index += step) {
      if (stages.stages == 2) {
        wait_for_copies_but<0>();
      } else {
        wait_for_copies_but<1>();
      }
      __syncthreads();
      copy_next();
      compute(window, static_cast<int>(index), stage(from));
      window.advance(a.windows, steps);
      from = from + 1 == stages.stages ? 0 : from + 1;
    }
    wait_for_copies();
  }

  __device__ void compute(SwinPlace const& window, int index, unsigned char const* tensors) {
    uint32_t const shared = shared_address(tensors);
    typename Mma::Fragments q;
    typename Mma::Products product;
    typename Mma::Sums sum = {};
    float total[4] = {};
    if (a.cosine()) find_lengths(tensors);
    Mma::load_queries(shared, q);
    if (plain) {
      Mma::multiply_keys(q, shared + Tile::kTensorBytes, bias, product);
    } else {
      constexpr typename Mma::Products kNone = {};
      Mma::multiply_keys(q, shared + Tile::kTensorBytes, kNone, product);
      to_logits(product);
    }
    float const scale = plain ? factor : 1.f, unit = kLog2E / scale;  // unit: of what is added to products
    int const sides = a.hidden_sides(window);
    if (sides) hide(product, sides, unit);
    if (a.mask.data) add_mask(product, tensors + 3 * Tile::kTensorBytes, index, unit);
    weigh(product, scale);
    Mma::add_values(product, shared + 2 * Tile::kTensorBytes, sum, total);
    Mma::write(a, window, rows, total, sum);
  }

  // From products to weights. scale: of products to logits of base 2, positive.
  __device__ static void weigh(typename Mma::Products& product, float scale) {
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
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) product[i][j] = exp2_fast(fmaf(product[i][j], scale, -base[j / 2]));
    }
  }

  // Of all rows of q and k, by all threads.
  __device__ void find_lengths(unsigned char const* tensors) const {
    for (int row = threadIdx.x; row < 2 * Tile::kTokens; row += Tile::kThreads)
      lengths()[row] = Mma::inverse_length(tensors + row * Tile::kRowBytes);  // k begins where q ends
    __syncthreads();
  }

  __device__ void to_logits(typename Mma::Products& product) const {
    float scale[2] = {factor, factor};
    if (a.cosine()) {
      float const* const keys = lengths() + Tile::kTokens + first_column();
#pragma unroll
      for (int half = 0; half < 2; ++half) scale[half] *= lengths()[rows.token[half]];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        float2 const inverse = *reinterpret_cast<float2 const*>(keys + 8 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j) product[i][j] *= j % 2 ? inverse.y : inverse.x;
      }
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) product[i][j] = fmaf(product[i][j], scale[j / 2], bias[i][j]);
    }
  }

  __device__ void hide(typename Mma::Products& product, int sides, float unit) const {
    uint32_t const hidden = (sides & 1 ? apart[0] : 0) | (sides & 2 ? apart[1] : 0);
    float const value = a.shift_mask * unit;
#pragma unroll
    for (int i = 0; i < 4 * kColumns; ++i) {
      if (hidden & 1u << i) product[i / 4][i % 4] += value;
    }
  }

  __device__ void add_mask(typename Mma::Products& product, unsigned char const* memory, int index, float unit) const {
    int const skipped = static_cast<int>((index % a.masks) * mask_size() % kAccessBytes);
    if (a.mask.wide) {
      add_mask(product, reinterpret_cast<float const*>(memory + skipped), unit);
    } else {
      add_mask(product, reinterpret_cast<T const*>(memory + skipped), unit);
    }
  }
  // Where there is no row or key, it is that of the last one, and counts for nothing.
  template <class Element>
  __device__ void add_mask(typename Mma::Products& product, Element const* mask, float unit) const {
    int const tokens = a.windows.tokens();
    Element const* const from[2] = {mask + min(rows.token[0], tokens - 1) * tokens,
                                    mask + min(rows.token[1], tokens - 1) * tokens};
#pragma unroll
    for (int i = 0; i < 4 * kColumns; ++i) {
      float& sum = product[i / 4][i % 4];
      sum = fmaf(unit, to_float(from[i % 4 / 2][min(key_of(i), tokens - 1)]), sum);
    }
  }
};

#endif

// One dimension of blocks: a head, and one of the shares of its windows.
template <class Tile, int kResidents>
__global__ void __launch_bounds__(Tile::kThreads, kResidents) swin_attention_window_kernel(
    SwinArguments<typename Tile::T> a, SwinStages stages) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  SwinMma<Tile>::clear(memory, swin_shared_bytes<Tile>(stages));
  __syncthreads();
  SwinWindow<Tile> work(a, stages, memory, blockIdx.x % a.heads);
  work.walk(blockIdx.x / a.heads, gridDim.x / a.heads, static_cast<int>(a.all_windows()));
#else
  __trap();
#endif
}

}  // namespace bridge
