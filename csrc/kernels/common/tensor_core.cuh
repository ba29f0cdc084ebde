// Instructions of the tensor cores and of asynchronous copies that CUDA C++ does not spell (PTX ISA 8.0).
#pragma once

#include <cfloat>

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

// ---- mma.sync, from compute capability 8.0 on; for half from 7.5 on ---------------------------

__device__ inline void load_matrices(uint32_t (&out)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared));
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

// ---- wgmma, of compute capability 9.0 alone ---------------------------------------------------

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define BRIDGE_WGMMA 1  // what follows may be called
#endif

// A tile of 128-byte rows in shared memory, K-major, 16-byte chunks permuted within each 8 rows (128-byte swizzle).
__device__ inline uint64_t matrix_descriptor(uint32_t shared) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = 1024 >> 4;
  return kSwizzle128 | (kEightRows << 32) | (uint64_t(1) << 16) | ((shared & 0x3ffff) >> 4);
}

// What this thread wrote to shared memory becomes visible to wgmma.
__device__ inline void publish_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// What follows reads these registers after what comes before, such as a wait for wgmma to write them.
template <int kCount>
__device__ inline void hold_registers(float (&value)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(value[i])::"memory");
}
// Waits until no more than kPending groups are under way.
template <int kPending>
__device__ inline void wait_for_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Moves registers between the warpgroups of a block: the calling one goes from kNow to kWanted a thread. Those that get
// some wait for those that leave some.
template <int kWanted, int kNow>
__device__ inline void set_registers() {
  if constexpr (kWanted > kNow) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kWanted));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kWanted));
  }
}

// A barrier in shared memory that counts arrivals and bytes; its phases alternate between parity 0 and 1.
struct SharedBarrier {
  uint64_t state;

  __device__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  __device__ void arrive_and_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
  // Until the phase of that parity is over.
  __device__ void wait(uint32_t parity) {
    asm volatile(
        "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; }" ::"r"(
            shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

// Copies bytes, a multiple of 16, and tells the barrier when they have arrived.
__device__ inline void copy_bulk(void* shared, void const* global, uint32_t bytes, SharedBarrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(&barrier))
               : "memory");
}

// Kernels that overlap (launch_overlapping): the next one's blocks may come as soon as all of this one's have begun.
// They wait before they touch what the kernels before them read or write.
__device__ inline void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Among `threads` threads of a block that use the same number, which is not 0.
__device__ inline void synchronize_some(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

#define BRIDGE_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define BRIDGE_D16(d, i) BRIDGE_D4(d, i), BRIDGE_D4(d, i + 4), BRIDGE_D4(d, i + 8), BRIDGE_D4(d, i + 12)
#define BRIDGE_D32(d, i) BRIDGE_D16(d, i), BRIDGE_D16(d, i + 16)
#define BRIDGE_D64(d, i) BRIDGE_D32(d, i), BRIDGE_D32(d, i + 32)
// sum[64 × N] of a warpgroup += a[64 × 32 bytes] b[N × 32 bytes]^T, or = where it does not add; a thread holds N / 2 of
// the sums. b lies in shared memory; a in registers, as mma.sync has it: rows 16 warp + lane / 4 and that plus 8 of the
// warpgroup's 64, the 4 bytes at 4 (lane % 4) of each half of the 32 bytes. float is taken as TF32.
template <class T, int N>
struct Wgmma;

#define BRIDGE_REGISTERS_32                  \
  "%0, %1, %2, %3, %4, %5, %6, %7, "         \
  "%8, %9, %10, %11, %12, %13, %14, %15, "   \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define BRIDGE_REGISTERS_64                  \
  BRIDGE_REGISTERS_32                        \
  ", "                                       \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define BRIDGE_REGISTERS_128                         \
  BRIDGE_REGISTERS_64                                \
  ", "                                               \
  "%64, %65, %66, %67, %68, %69, %70, %71, "         \
  "%72, %73, %74, %75, %76, %77, %78, %79, "         \
  "%80, %81, %82, %83, %84, %85, %86, %87, "         \
  "%88, %89, %90, %91, %92, %93, %94, %95, "         \
  "%96, %97, %98, %99, %100, %101, %102, %103, "     \
  "%104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, " \
  "%120, %121, %122, %123, %124, %125, %126, %127"
#define BRIDGE_WGMMA_N(type, depth, name, end, n, registers, a0_a3, b_desc, adds_, ...)                                \
  template <>                                                                                                          \
  struct Wgmma<type, n> {                                                                                              \
    static __device__ void add(float (&sum)[n / 2], uint32_t const (&a)[4], uint64_t b, bool adds = true) {            \
      asm volatile("{ .reg .pred adds; setp.ne.u32 adds, " adds_ ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k" depth \
                   ".f32." name "." name " {" registers "}, {" a0_a3 "}, " b_desc ", adds, 1, 1" end "; }"             \
                   : __VA_ARGS__                                                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)));                              \
    }                                                                                                                  \
  };
#define BRIDGE_WGMMA_ALL(type, depth, name, end)                                                              \
  BRIDGE_WGMMA_N(type, depth, name, end, 64, BRIDGE_REGISTERS_32, "%32, %33, %34, %35", "%36", "%37",         \
                 BRIDGE_D32(sum, 0))                                                                          \
  BRIDGE_WGMMA_N(type, depth, name, end, 128, BRIDGE_REGISTERS_64, "%64, %65, %66, %67", "%68", "%69",        \
                 BRIDGE_D64(sum, 0))                                                                          \
  BRIDGE_WGMMA_N(type, depth, name, end, 256, BRIDGE_REGISTERS_128, "%128, %129, %130, %131", "%132", "%133", \
                 BRIDGE_D64(sum, 0), BRIDGE_D64(sum, 64))
BRIDGE_WGMMA_ALL(half, "16", "f16", ", 0")  // the end: b is not transposed, which TF32 cannot be
BRIDGE_WGMMA_ALL(bfloat16, "16", "bf16", ", 0")
BRIDGE_WGMMA_ALL(float, "8", "tf32", "")
#undef BRIDGE_WGMMA_ALL
#undef BRIDGE_WGMMA_N
#undef BRIDGE_REGISTERS_32
#undef BRIDGE_REGISTERS_64
#undef BRIDGE_REGISTERS_128

#undef BRIDGE_D4
#undef BRIDGE_D16
#undef BRIDGE_D32
#undef BRIDGE_D64

}  // namespace bridge
