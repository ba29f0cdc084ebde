// Kernels that begin before the one before them in the stream has ended: programmatic dependent launch, from compute
// capability 9.0 on. What launching costs then passes while the other one works.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <utility>

namespace bridge {

// The next kernel's blocks may come as soon as all of this one's have begun, if it is launched so that it overlaps.
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

// overlaps: the kernel waits by itself for the one before it in the stream, and may begin earlier. Not before compute
// capability 9.0.
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapping(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                               bool overlaps, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = overlaps;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
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

}  // namespace bridge
