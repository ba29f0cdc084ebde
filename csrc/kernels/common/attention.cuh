// What attention kernels share: instructions beside those of tensor_core.cuh (PTX ISA 8.0), reductions over the threads
// of a row and of a warp, weights as factors of products, rows of sums as rows of results.
#pragma once

#include "tensor_core.cuh"

namespace bridge {

constexpr float kLog2E = 1.4426950408889634f;

__device__ inline float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float reciprocal_fast(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// sum[16 × 8] = given + a[16 × 32 bytes] b[8 × 32 bytes]^T, of 16-bit types: see multiply_add.
template <class T>
__device__ void multiply_add_to(float (&sum)[4], float const (&given)[4], uint32_t const (&a)[4], uint32_t b0,
                                uint32_t b1);

#if __CUDA_ARCH__ >= 800
#define BRIDGE_MULTIPLY_ADD_TO(type, instruction)                                                              \
  template <>                                                                                                  \
  __device__ inline void multiply_add_to<type>(float (&sum)[4], float const(&given)[4], uint32_t const(&a)[4], \
                                               uint32_t b0, uint32_t b1) {                                     \
    asm volatile("mma.sync.aligned." instruction                                                               \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                        \
                 : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(given[0]), "f"(given[1]), \
                   "f"(given[2]), "f"(given[3]));                                                              \
  }
BRIDGE_MULTIPLY_ADD_TO(half, "m16n8k16.row.col.f32.f16.f16.f32")
BRIDGE_MULTIPLY_ADD_TO(bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#undef BRIDGE_MULTIPLY_ADD_TO
#endif

__device__ inline void load_matrices_transposed(uint32_t (&out)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared));
}

// As copy_async, or 16 bytes of zeros.
__device__ inline void copy_async_or_zero(uint32_t shared, void const* global, bool copies) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(copies ? 16 : 0)
               : "memory");
#endif
}

// Copies since the last such call are a group, and all but the last kGroups groups are waited for.
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroups>
__device__ void wait_for_copies_but() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

__device__ inline float sum_of_warp(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}
__device__ inline float max_of_warp(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

// exp2(x - top): what is subtracted where all are -inf is 0, and not -inf.
__device__ inline float finite_top(float top) { return top == -INFINITY ? 0.f : top; }

__device__ inline float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ inline float sum_of_row(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// Softmax of logits as tensor cores leave them, tile after tile (Milakov and Gimelshein,
// https://arxiv.org/abs/1805.02867; Dao, https://arxiv.org/abs/2307.08691, section 3.1).
//
// A thread holds two rows of 16, 8 apart; of each, 2 of every 8 columns: sum[column / 8][2 row + column % 2]. The four
// threads of a row are neighbours. Of two rows: the largest logit so far, and this thread's part of the total of the
// weights.
//
// kSlack: by how much a logit of base 2 may exceed `top`, which grows no sooner: then earlier sums mostly stay as they
// are. Weights are up to 2^kSlack.
struct OnlineSoftmax {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // From products to weights. scale: of products to logits of base 2, positive. factor: by which earlier sums of values
  // are multiplied.
  template <int kSlack = 0, int kColumns>
  __device__ void weigh(float (&product)[kColumns][4], float scale, float (&factor)[2]) {
    float largest[4], part[4] = {}, base[2];
#pragma unroll
    for (int j = 0; j < 4; ++j) largest[j] = product[0][j];
#pragma unroll
    for (int i = 1; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) largest[j] = fmaxf(largest[j], product[i][j]);
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float const largest_here = scale * max_of_row(fmaxf(largest[2 * row], largest[2 * row + 1]));
      float const next = kSlack == 0                        ? fmaxf(top[row], largest_here)
                         : largest_here - top[row] > kSlack ? largest_here
                                                            : top[row];
      base[row] = finite_top(next), factor[row] = exp2_fast(top[row] - base[row]), top[row] = next;
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        product[i][j] = exp2_fast(fmaf(product[i][j], scale, -base[j / 2]));
        part[j] += product[i][j];
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) total[row] = fmaf(total[row], factor[row], part[2 * row] + part[2 * row + 1]);
  }

  // The whole totals, once all keys are in.
  __device__ void finish() {
#pragma unroll
    for (float& each : total) each = sum_of_row(each);
  }
};

template <class T>
__device__ uint32_t pack_two(float a, float b);
template <>
__device__ inline uint32_t pack_two<half>(float a, float b) {
  __half2 const pair = __floats2half2_rn(a, b);
  return reinterpret_cast<uint32_t const&>(pair);
}
template <>
__device__ inline uint32_t pack_two<bfloat16>(float a, float b) {
  __nv_bfloat162 const pair = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<uint32_t const&>(pair);
}

// Weights of 16 keys as the left factor of a product: 8 columns and the 8 after them.
template <class T>
__device__ void pack_weights(float const (&low)[4], float const (&high)[4], uint32_t (&out)[4]) {
  out[0] = pack_two<T>(low[0], low[1]), out[1] = pack_two<T>(low[2], low[3]);
  out[2] = pack_two<T>(high[0], high[1]), out[3] = pack_two<T>(high[2], high[3]);
}

// Of four neighbouring threads with four words each, thread i gets word i of each, in their order.
__device__ inline void transpose_quad(uint32_t (&word)[4]) {
  int const lane = threadIdx.x % 4;
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    bool const upper = lane & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      uint32_t const given = __shfl_xor_sync(~0u, upper ? word[i] : word[i + bit], bit);
      word[i] = upper ? given : word[i];
      word[i + bit] = upper ? word[i + bit] : given;
    }
  }
}

// 16 bytes at once: of an assignment to a uint4 the compiler may make four stores.
__device__ inline void store_chunk(void* global, uint32_t const (&word)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(word[0]), "r"(word[1]), "r"(word[2]),
               "r"(word[3])
               : "memory");
}

}  // namespace bridge
