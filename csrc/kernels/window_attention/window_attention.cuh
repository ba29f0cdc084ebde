// Attention of each query to an interval of keys: which kernel computes it.
#pragma once

#include "core/device.h"
#include "kernels/window_attention/launch.cuh"
#include "kernels/window_attention/mma.cuh"
#include "kernels/window_attention/plan.cuh"
#include "kernels/window_attention/wgmma.cuh"

namespace bridge {

// Of 16-bit types: the kernel for every GPU, or that of compute capability 9.0.
enum class WindowAttentionWay { kMma = 0, kWgmma = 1 };

template <class Tile>
cudaError_t launch_mma_tiles(WindowAttentionArguments<typename Tile::T> const& a, AttentionPlan const& plan,
                             AttentionParts const& parts, int, cudaStream_t stream) {
  return launch_tiles<Tile>(window_attention_mma_kernel<Tile>, a, plan.items, parts, stream);
}

template <class Tile>
cudaError_t launch_wgmma_tiles(WindowAttentionArguments<typename Tile::T> const& a, AttentionPlan const& plan,
                               AttentionParts const& parts, int multiprocessors, cudaStream_t stream) {
  auto const kernel = window_attention_wgmma_kernel<Tile>;
  constexpr int kShared = sizeof(WgmmaShared<Tile>);
  cudaError_t const status = allow_shared(kernel, kShared);
  if (status != cudaSuccess) return status;
  auto const blocks = static_cast<unsigned>(least(plan.items, multiprocessors));
  int const items = static_cast<int>(plan.items);
  kernel<<<blocks, Tile::kThreads, kShared, stream>>>(a, parts, items);
  return cudaGetLastError();
}

// kRowTiles, kMmaKeys, kWgmmaKeys: of the kernels for many rows.
template <class T, int kHeadDim, int kRowTiles, int kMmaKeys, int kWgmmaKeys>
cudaError_t launch_width(WindowAttentionArguments<T> const& a, WindowAttentionWay way, int multiprocessors,
                         void* workspace, cudaStream_t stream) {
  using Few = MmaTile<T, kHeadDim, 1, 4, 64>;
  using Many = MmaTile<T, kHeadDim, kRowTiles, 1, kMmaKeys>;
  using ManyByWgmma = WgmmaTile<T, (kHeadDim + 63) / 64 * 64, kWgmmaKeys>;
  static_assert(std::max({Many::kRows, Many::kKeys, ManyByWgmma::kRows, ManyByWgmma::kKeys}) <= kMostTileExtent);
  bool const wgmma = way == WindowAttentionWay::kWgmma;
  bool const splits = workspace != nullptr;
  auto const plan = wgmma ? AttentionPlan::of<Few, ManyByWgmma>(a, splits) : AttentionPlan::of<Few, Many>(a, splits);
  if (plan.items > kMaxGridX) return cudaErrorInvalidValue;
  AttentionParts const parts = attention_parts(a, plan.splits, workspace);
  auto const launch = plan.few ? launch_mma_tiles<Few>
                      : wgmma  ? launch_wgmma_tiles<ManyByWgmma>
                               : launch_mma_tiles<Many>;
  cudaError_t const status = launch(a, plan, parts, multiprocessors, stream);
  return status == cudaSuccess && parts.count > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

template <class T>
cudaError_t launch_halves(WindowAttentionArguments<T> const& a, WindowAttentionWay way, int multiprocessors,
                          void* workspace, cudaStream_t stream) {
  auto const launch = a.head_dim <= 64    ? launch_width<T, 64, 2, 64, 128>
                      : a.head_dim <= 96  ? launch_width<T, 96, 2, 64, 128>
                      : a.head_dim <= 128 ? launch_width<T, 128, 2, 64, 128>
                                          : launch_width<T, 256, 1, 64, 64>;
  return launch(a, way, multiprocessors, workspace, stream);
}

// workspace may be null: keys are not split then.
template <class T>
cudaError_t launch_window_attention(WindowAttentionArguments<T> const& a, WindowAttentionWay way, Device const& device,
                                    void* workspace, cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && takes_whole_chunks(a)) {
      if (device.capability != 90) way = WindowAttentionWay::kMma;
      return launch_halves(a, way, device.multiprocessors, workspace, stream);
    }
  }
  return launch_exact(window_attention_exact_kernel<T>, a, stream);
}

}  // namespace bridge
