// What launching the kernels of attention takes.
#pragma once

#include "kernels/window_attention/exact.cuh"
#include "kernels/window_attention/plan.cuh"
#include "kernels/window_attention/results.cuh"
#include "kernels/window_attention/wgmma_tile.cuh"

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

// Of compute capability 9.0.
constexpr bool residents_fit(int blocks, int shared) {
  constexpr int kReserved = 1 << 10, kMultiprocessor = 228 << 10;
  return blocks * (shared + kReserved) <= kMultiprocessor;
}

// Of a kernel by wgmma: `blocks` blocks take items of work in turn, which `all` says more about.
template <class Shared, class Kernel, class Arguments, class Items>
cudaError_t launch_wgmma(Kernel kernel, int64_t blocks, int64_t items, Arguments const& a, AttentionParts const& parts,
                         AttentionMaps const& maps, Items const& all, cudaStream_t stream) {
  using Tile = typename Shared::Tile;
  constexpr int kShared = sizeof(Shared);
  static_assert(residents_fit(Tile::kResidents, kShared));
  static_assert(std::max(Tile::kRows, Tile::kKeys) <= kMostTileExtent);
  if (items > kMaxGridX) return cudaErrorInvalidValue;
  cudaError_t status = allow_shared(kernel, kShared);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, kShared, stream>>>(a, parts, maps, all);
  status = cudaGetLastError();
  return status == cudaSuccess && parts.count > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

}  // namespace bridge
