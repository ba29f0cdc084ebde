// Instructions of the tensor cores and of asynchronous copies that CUDA C++ does not spell (PTX ISA 8.0).
#pragma once

#include <cfloat>

#include "overlap.cuh"
#include "vec.cuh"

namespace bridge {

__device__ inline uint32_t shared_address(void const* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- asynchronous copies, from compute capability 8.0 on; before it through registers ----------

__device__ inline void copy_async(uint32_t shared, void const* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
#else
  uint4 const value = *static_cast<uint4 const*>(global);
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
#endif
}

__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
// What this thread asked for until now is a group, for which it can wait apart from what it asks for later.
__device__ inline void group_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
__device__ inline void wait_for_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
}

// ---- mma.sync, from compute capability 8.0 on; for half from 7.5 on ---------------------------

__device__ inline void load_matrices(uint32_t (&out)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared));
}

// The reverse: each lane says where 16 bytes are to be, a row or, transposed, a column of matrix lane / 8. Transposed
// from compute capability 9.0 on.
template <bool kTransposed = false>
__device__ void store_matrices(uint32_t shared, uint32_t const (&word)[4]) {
#if __CUDA_ARCH__ >= 900
  if constexpr (kTransposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(word[0]),
                 "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(word[0]),
                 "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
  }
#else
  static_assert(!kTransposed);
  int const lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t const to = __shfl_sync(~0u, shared, 8 * i + lane / 4) + lane % 4 * sizeof(uint32_t);
    *static_cast<uint32_t*>(__cvta_shared_to_generic(to)) = word[i];
  }
#endif
}

// sum[16 × 8] += a[16 × 32 bytes] b[8 × 32 bytes]^T
template <class T>
__device__ void multiply_add(float (&sum)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1);

#if __CUDA_ARCH__ >= 800
#define BRIDGE_MULTIPLY_ADD(type, instruction)                                                                      \
  template <>                                                                                                       \
  __device__ inline void multiply_add<type>(float (&sum)[4], uint32_t const(&a)[4], uint32_t b0, uint32_t b1) {     \
    asm volatile("mma.sync.aligned." instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                   \
  }
BRIDGE_MULTIPLY_ADD(half, "m16n8k16.row.col.f32.f16.f16.f32")
BRIDGE_MULTIPLY_ADD(bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
BRIDGE_MULTIPLY_ADD(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef BRIDGE_MULTIPLY_ADD
#else
// Two steps of 8.
template <>
__device__ inline void multiply_add<half>(float (&sum)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[2 * step]), "r"(a[2 * step + 1]), "r"(step ? b1 : b0));
  }
}
// There for the compiler alone: no kernel with such products is chosen on these GPUs.
template <class T>
__device__ void multiply_add(float (&)[4], uint32_t const (&)[4], uint32_t, uint32_t) {
  __trap();
}
#endif

__device__ inline float round_to_tf32(float value) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
#else
  return value;
#endif
}

// Leaves of a float what TF32 holds of it, toward zero, and returns the rest. Of a number that is not zero the rest is
// not zero either, and has its sign: then an infinite factor of both gives no NaN. A NaN must be as arithmetic makes
// it.
__device__ inline uint32_t split_off(uint32_t& bits) {
  float const whole = __uint_as_float(bits);
  bits &= 0xffffe000;
  float const difference = whole - __uint_as_float(bits);  // NaN where the number is not finite
  float const least = copysignf(fminf(fabsf(whole), FLT_MIN), whole);
  return __float_as_uint(fabsf(difference) > 0.f ? difference : least);
}
__device__ inline uint4 split_off(uint4& value) {
  return {split_off(value.x), split_off(value.y), split_off(value.z), split_off(value.w)};
}

// ---- warps and blocks ---------------------------------------------------------------------------

// A value that the threads of a warp agree on, told to the compiler.
template <class T>
__device__ T same_in_warp(T value) {
  return __shfl_sync(~0u, value, 0);
}

// Among `threads` threads of a block that use the same number, which is not 0.
__device__ inline void synchronize_some(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// The same, of those that do not wait for the others.
__device__ inline void arrive_at(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace bridge
