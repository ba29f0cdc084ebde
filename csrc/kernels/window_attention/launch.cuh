// What launching the kernels of attention takes.
#pragma once

#include "kernels/window_attention/exact.cuh"
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

template <class Kernel>
cudaError_t allow_shared(Kernel kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// One block an item.
template <class Tile, class Kernel, class Arguments>
cudaError_t launch_tiles(Kernel kernel, Arguments const& a, int64_t items, AttentionParts const& parts,
                         cudaStream_t stream) {
  if (items > kMaxGridX) return cudaErrorInvalidValue;
  cudaError_t const status = allow_shared(kernel, Tile::kSharedBytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(items), Tile::kThreads, Tile::kSharedBytes, stream>>>(a, parts);
  return cudaGetLastError();
}

}  // namespace bridge
