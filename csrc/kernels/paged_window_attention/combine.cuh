// One result of several parts of the keys, as window attention's, by a kernel that begins while the parts are computed.
#pragma once

#include "kernels/common/tensor_core.cuh"
#include "kernels/window_attention/results.cuh"

namespace bridge {

template <class T>
__global__ void __launch_bounds__(32 * kCombineWarps) paged_window_attention_combine_kernel(
    WindowAttentionArguments<T> a, AttentionParts parts) {
  wait_for_kernel_before();
  int64_t const all = a.rows(), row = int64_t(blockIdx.x) * kCombineWarps + threadIdx.x / 32;
  if (row >= all) return;
  int const query = static_cast<int>(row % a.queries), head = static_cast<int>(row / a.queries % a.heads);
  CombinedRow<1> const combined(parts.states + row, parts.sums + row * a.head_dim, parts.count, all, a.head_dim,
                                32 * static_cast<int>(blockIdx.y));
  combined.write(a.out.row(static_cast<int>(row / a.queries / a.heads), head, query), a.head_dim, sink_logit(a, head));
}

template <class T>
cudaError_t launch_paged_combine(WindowAttentionArguments<T> const& a, AttentionParts const& parts,
                                 cudaStream_t stream) {
  int64_t const blocks = ceil_divide(a.rows(), kCombineWarps);
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  dim3 const grid(static_cast<unsigned>(blocks), static_cast<unsigned>(ceil_divide(a.head_dim, 32)));
  return launch_early<paged_window_attention_combine_kernel<T>>(grid, 32 * kCombineWarps, stream, a, parts);
}

}  // namespace bridge
