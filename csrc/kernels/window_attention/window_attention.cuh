// Attention of each query to an interval of keys: which kernel computes it.
#pragma once

#include "kernels/window_attention/exact.cuh"
#include "kernels/window_attention/mma.cuh"
#include "kernels/window_attention/plan.cuh"

namespace bridge {

// Whether the tensor-core kernels take the tensors: they read and write 16 bytes at once.
template <class T>
bool takes_whole_chunks(WindowAttentionArguments<T> const& a) {
  constexpr int kInChunk = kAccessBytes / sizeof(T);
  auto fits = [](auto const& tensor) {
    AttentionStrides const& strides = tensor.strides;
    return aligned(tensor.data) && strides.batch % kInChunk == 0 && strides.head % kInChunk == 0 &&
           strides.seq % kInChunk == 0;
  };
  return a.head_dim % kInChunk == 0 && fits(a.q) && fits(a.k) && fits(a.v) && fits(a.out);
}

template <class Tile>
cudaError_t launch_window_attention_tiles(WindowAttentionArguments<typename Tile::T> const& a,
                                          AttentionPlan const& plan, void* workspace, cudaStream_t stream) {
  if (plan.blocks > kMaxGridX) return cudaErrorInvalidValue;
  auto const kernel = window_attention_mma_kernel<Tile>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  if (status != cudaSuccess) return status;
  AttentionParts const parts = attention_parts(a, plan, workspace);
  kernel<<<static_cast<unsigned>(plan.blocks), Tile::kThreads, Tile::kSharedBytes, stream>>>(a, parts);
  status = cudaGetLastError();
  return status == cudaSuccess && parts.count > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

// kRowTiles, kKeys: of the kernel for many rows.
template <class T, int kHeadDim, int kRowTiles, int kKeys>
cudaError_t launch_window_attention_width(WindowAttentionArguments<T> const& a, void* workspace, cudaStream_t stream) {
  using Many = MmaTile<T, kHeadDim, kRowTiles, 1, kKeys>;
  using Few = MmaTile<T, kHeadDim, 1, 4, 64>;
  AttentionPlan const plan(a, Many::kRows, Many::kKeys, workspace != nullptr);
  return plan.few ? launch_window_attention_tiles<Few>(a, plan, workspace, stream)
                  : launch_window_attention_tiles<Many>(a, plan, workspace, stream);
}

template <class T>
cudaError_t launch_window_attention_mma(WindowAttentionArguments<T> const& a, void* workspace, cudaStream_t stream) {
  if (a.head_dim <= 64) return launch_window_attention_width<T, 64, 2, 64>(a, workspace, stream);
  if (a.head_dim <= 96) return launch_window_attention_width<T, 96, 2, 48>(a, workspace, stream);
  if (a.head_dim <= 128) return launch_window_attention_width<T, 128, 2, 48>(a, workspace, stream);
  return launch_window_attention_width<T, 256, 1, 64>(a, workspace, stream);
}

template <class T>
cudaError_t launch_window_attention(WindowAttentionArguments<T> const& a, int capability, void* workspace,
                                    cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    if (capability >= 80 && takes_whole_chunks(a)) return launch_window_attention_mma(a, workspace, stream);
  }
  return launch_window_attention_exact(a, stream);
}

}  // namespace bridge
