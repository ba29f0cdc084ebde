// Clusters of blocks, of compute capability 9.0 and later: blocks that run at once and reach each other's shared memory
// (PTX ISA 8.0).
#pragma once

#include "wgmma.cuh"

namespace bridge {

// How many blocks of its cluster lie beside each other, and where this block is among them. A block that was launched
// without a cluster is one of its own.
struct ClusterPlace {
  uint32_t count[3], at[3];

  __device__ ClusterPlace() {
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(count[0]));
    asm("mov.u32 %0, %%cluster_nctaid.y;" : "=r"(count[1]));
    asm("mov.u32 %0, %%cluster_nctaid.z;" : "=r"(count[2]));
    asm("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(at[0]));
    asm("mov.u32 %0, %%cluster_ctaid.y;" : "=r"(at[1]));
    asm("mov.u32 %0, %%cluster_ctaid.z;" : "=r"(at[2]));
  }
  __device__ uint32_t blocks() const { return count[0] * count[1] * count[2]; }
  __device__ uint32_t rank(uint32_t x, uint32_t y, uint32_t z) const { return x + count[0] * (y + count[1] * z); }
};

// Waits for all threads of the cluster that have not ended; in two halves, between which others need not be waited for.
__device__ inline void begin_meeting() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ inline void end_meeting() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
__device__ inline void meet_cluster() {
  begin_meeting();
  end_meeting();
}
// The same, and what they wrote to shared memory before is there.
__device__ inline void synchronize_cluster() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// Barriers that this thread initialised become visible to other blocks, and to copies.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  publish_to_wgmma();
}

// Where another block of the cluster has what this one has at that address.
__device__ inline uint32_t shared_address_in(uint32_t shared, uint32_t rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(rank));
  return there;
}

// Arrives at that block's barrier; nothing that was written before is published by it.
__device__ inline void arrive_in(SharedBarrier& barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(shared_address_in(shared_address(&barrier), rank))
               : "memory");
}

// Copies bytes, a multiple of 16, to the same place of every block in `ranks`, bit by bit, and tells the barrier of
// each.
__device__ inline void copy_bulk_to(uint16_t ranks, void* shared, void const* global, uint32_t bytes,
                                    SharedBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(&barrier)), "h"(ranks)
      : "memory");
}

// N floats that lie side by side in some block's shared memory; aligned for one access.
template <int N>
__device__ void load_shared_in(float (&value)[N], uint32_t there) {
  static_assert(N == 1 || N == 2 || N % 4 == 0);
  if constexpr (N == 1) {
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value[0]) : "r"(there) : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(value[0]), "=f"(value[1]) : "r"(there) : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(value[i]), "=f"(value[i + 1]), "=f"(value[i + 2]), "=f"(value[i + 3])
                   : "r"(there + 4 * i)
                   : "memory");
  }
}

}  // namespace bridge
