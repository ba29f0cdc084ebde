// wgmma, of compute capability 9.0 alone, and the barriers and bulk copies beside it (PTX ISA 8.0).
#pragma once

#include "tensor_core.cuh"

namespace bridge {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define BRIDGE_WGMMA 1  // what follows may be called
#endif

// A tile of 128-byte rows in shared memory, K-major, 16-byte chunks permuted within each 8 rows (128-byte swizzle).
__device__ inline uint64_t matrix_descriptor(uint32_t shared) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = 1024 >> 4;
  return kSwizzle128 | (kEightRows << 32) | (uint64_t(1) << 16) | ((shared & 0x3ffff) >> 4);
}

// A tile of rows of which the one is a sum's term, 128-byte rows of what is innermost: 64 of N, and `bytes` to the next
// 64. Permuted likewise.
__device__ inline uint64_t transposed_descriptor(uint32_t shared, uint32_t bytes) {
  return (matrix_descriptor(shared) & ~(uint64_t(0x3fff) << 16)) | (uint64_t(bytes >> 4) << 16);
}

// The descriptor of what lies 16 n bytes behind.
__device__ inline uint64_t behind(uint64_t descriptor, uint32_t n) {
  return (descriptor & 0xffffffff00000000) | (static_cast<uint32_t>(descriptor) + n);
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
template <int kCount>
__device__ inline void hold_registers(uint32_t (&value)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(value[i])::"memory");
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

// Registers of a thread, of kResidents blocks with kGroups warpgroups that compute and one that fetches: at the launch,
// and once they have been moved.
template <int kGroups, int kResidents>
struct WarpgroupRegisters {
  static constexpr int kAll = 65536 / ((kGroups + 1) * 128 * kResidents) / 8 * 8, kMost = 240;
  static constexpr int kLaunch = kAll < kMost ? kAll : kMost;
  static constexpr int kFetching = kLaunch > 128 ? 40 : 32;
  static constexpr int kRest = ((kGroups + 1) * kLaunch - kFetching) / kGroups / 8 * 8;
  static constexpr int kComputing = kRest < kMost ? kRest : kMost;
};

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
  // Whether the phase of that parity is over.
  __device__ bool test(uint32_t parity) {
    uint32_t over;
    asm volatile(
        "{ .reg .pred done; mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2; selp.u32 %0, 1, 0, done; }"
        : "=r"(over)
        : "r"(shared_address(this)), "r"(parity)
        : "memory");
    return over != 0;
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
#define BRIDGE_REGISTERS_40 BRIDGE_REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define BRIDGE_REGISTERS_48 BRIDGE_REGISTERS_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define BRIDGE_REGISTERS_64                  \
  BRIDGE_REGISTERS_32                        \
  ", "                                       \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define BRIDGE_REGISTERS_80                  \
  BRIDGE_REGISTERS_64                        \
  ", "                                       \
  "%64, %65, %66, %67, %68, %69, %70, %71, " \
  "%72, %73, %74, %75, %76, %77, %78, %79"
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

// The same of 16-bit types, b with N innermost: b[32 bytes × N].
template <class T, int N>
struct HalfWgmma;

#define BRIDGE_HALF_WGMMA_N(type, name, n, registers, a0_a3, b_desc, adds_, a_of_shared, b_of_shared, adds_of_shared,  \
                            ...)                                                                                       \
  template <>                                                                                                          \
  struct HalfWgmma<type, n> {                                                                                          \
    static __device__ void add_transposed(float (&sum)[n / 2], uint32_t const (&a)[4], uint64_t b, bool adds = true) { \
      asm volatile("{ .reg .pred adds; setp.ne.u32 adds, " adds_ ", 0; wgmma.mma_async.sync.aligned.m64n" #n           \
                   "k16.f32." name "." name " {" registers "}, {" a0_a3 "}, " b_desc ", adds, 1, 1, 1; }"              \
                   : __VA_ARGS__                                                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)));                              \
    }                                                                                                                  \
    /* a and b of shared memory, both with the 32 bytes innermost */                                                   \
    static __device__ void add_shared(float (&sum)[n / 2], uint64_t a, uint64_t b, bool adds = true) {                 \
      asm volatile("{ .reg .pred adds; setp.ne.u32 adds, " adds_of_shared ", 0; wgmma.mma_async.sync.aligned.m64n" #n  \
                   "k16.f32." name "." name " {" registers "}, " a_of_shared ", " b_of_shared ", adds, 1, 1, 0, 0; }"  \
                   : __VA_ARGS__                                                                                       \
                   : "l"(a), "l"(b), "r"(int(adds)));                                                                  \
    }                                                                                                                  \
  };
#define BRIDGE_HALF_WGMMA_ALL(type, name)                                                                              \
  BRIDGE_HALF_WGMMA_N(type, name, 64, BRIDGE_REGISTERS_32, "%32, %33, %34, %35", "%36", "%37", "%32", "%33", "%34",    \
                      BRIDGE_D32(sum, 0))                                                                              \
  BRIDGE_HALF_WGMMA_N(type, name, 80, BRIDGE_REGISTERS_40, "%40, %41, %42, %43", "%44", "%45", "%40", "%41", "%42",    \
                      BRIDGE_D32(sum, 0), BRIDGE_D4(sum, 32), BRIDGE_D4(sum, 36))                                      \
  BRIDGE_HALF_WGMMA_N(type, name, 96, BRIDGE_REGISTERS_48, "%48, %49, %50, %51", "%52", "%53", "%48", "%49", "%50",    \
                      BRIDGE_D32(sum, 0), BRIDGE_D16(sum, 32))                                                         \
  BRIDGE_HALF_WGMMA_N(type, name, 128, BRIDGE_REGISTERS_64, "%64, %65, %66, %67", "%68", "%69", "%64", "%65", "%66",   \
                      BRIDGE_D64(sum, 0))                                                                              \
  BRIDGE_HALF_WGMMA_N(type, name, 160, BRIDGE_REGISTERS_80, "%80, %81, %82, %83", "%84", "%85", "%80", "%81", "%82",   \
                      BRIDGE_D64(sum, 0), BRIDGE_D16(sum, 64))                                                         \
  BRIDGE_HALF_WGMMA_N(type, name, 256, BRIDGE_REGISTERS_128, "%128, %129, %130, %131", "%132", "%133", "%128", "%129", \
                      "%130", BRIDGE_D64(sum, 0), BRIDGE_D64(sum, 64))
BRIDGE_HALF_WGMMA_ALL(half, "f16")
BRIDGE_HALF_WGMMA_ALL(bfloat16, "bf16")
#undef BRIDGE_HALF_WGMMA_ALL
#undef BRIDGE_HALF_WGMMA_N
#undef BRIDGE_REGISTERS_32
#undef BRIDGE_REGISTERS_40
#undef BRIDGE_REGISTERS_48
#undef BRIDGE_REGISTERS_64
#undef BRIDGE_REGISTERS_80
#undef BRIDGE_REGISTERS_128

#undef BRIDGE_D4
#undef BRIDGE_D16
#undef BRIDGE_D32
#undef BRIDGE_D64

}  // namespace bridge
