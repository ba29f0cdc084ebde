// Kernels that begin before the one before them in the stream has ended: programmatic dependent launch, from compute
// capability 9.0 on. What launching costs then passes while the other one works.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <utility>

namespace bridge {

// The next kernel's blocks may come as soon as all of this one's have begun, if it is launched so that it overlaps.
// They wait before they touch what the kernels before them read or write. A kernel that waits itself does so first:
// blocks of two calls of which one waits share multiprocessors badly.
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

// overlaps: the kernel waits by itself for the one before it in the stream, and may begin earlier. Not before compute
// capability 9.0. cluster: blocks of a cluster; a single one is none.
template <class... Parameters, class... Arguments>
cudaError_t launch_in_clusters(void (*kernel)(Parameters...), dim3 grid, dim3 block, dim3 cluster, size_t shared,
                               cudaStream_t stream, bool overlaps, Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = attributes;
  if (overlaps) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster.x * cluster.y * cluster.z > 1) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster.x, attribute.val.clusterDim.y = cluster.y;
    attribute.val.clusterDim.z = cluster.z;
  }
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                               bool overlaps, Arguments&&... arguments) {
  return launch_in_clusters(kernel, grid, block, dim3(1), shared, stream, overlaps,
                            std::forward<Arguments>(arguments)...);
}

// Whether the code of a kernel that calls wait_for_kernel_before, as the current device runs it, has that: it was
// compiled for 9.0 or later. A device of 9.0 also runs what was compiled for earlier ones.
template <auto kKernel>
bool waits_for_kernel_before() {
  static std::array<std::atomic<signed char>, 64> known{};  // by device: 1 it does, -1 it does not
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= static_cast<int>(known.size())) return false;
  signed char found = known[device].load(std::memory_order_relaxed);
  if (found == 0) {
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, kKernel) != cudaSuccess) return false;
    found = attributes.ptxVersion >= 90 ? 1 : -1;
    known[device].store(found, std::memory_order_relaxed);
  }
  return found > 0;
}

// Of a kernel that calls wait_for_kernel_before, and has no shared memory of its launch's: early where it may.
template <auto kKernel, class... Arguments>
cudaError_t launch_early(dim3 grid, dim3 block, cudaStream_t stream, Arguments&&... arguments) {
  return launch_overlapping(kKernel, grid, block, 0, stream, waits_for_kernel_before<kKernel>(),
                            std::forward<Arguments>(arguments)...);
}

}  // namespace bridge
