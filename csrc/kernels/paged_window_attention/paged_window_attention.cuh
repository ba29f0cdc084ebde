// Attention of each query to an interval of the keys of a paged cache: which kernel computes it.
#pragma once

#include "core/device.h"
#include "kernels/paged_window_attention/combine.cuh"
#include "kernels/paged_window_attention/exact.cuh"
#include "kernels/paged_window_attention/few.cuh"
#include "kernels/paged_window_attention/mma.cuh"
#include "kernels/paged_window_attention/wgmma.cuh"
#include "kernels/window_attention/launch.cuh"

namespace bridge {

// Of 16-bit types and many queries: the kernel for every GPU, or that of compute capability 9.0.
enum class PagedWay { kMma = 0, kWgmma = 1 };

// What launches have in common. workspace may be null: keys are not split then.
struct PagedLaunch {
  PagedWay way;
  Device const& device;
  void* workspace;
  cudaStream_t stream;

  // Launch(parts) is to compute `count` parts of the keys, which then become one result.
  template <class T, class Launch>
  cudaError_t in_parts(PagedArguments<T> const& a, int count, Launch launch) const {
    AttentionParts const parts = attention_parts(a, count, workspace);
    cudaError_t const status = launch(parts);
    if (status != cudaSuccess || count == 1) return status;
    return launch_paged_combine(a, parts, stream);
  }
};

// tile_rows: of an item of work; blocks: that splits are to give a multiprocessor; least_keys: of a part. Keys are as
// many as the host knows of: lengths are on the device.
template <class T>
int paged_splits(PagedArguments<T> const& a, PagedLaunch const& launch, int64_t items, int tile_rows, int64_t blocks,
                 int least_keys) {
  if (!launch.workspace) return 1;
  int64_t const seen = most_seen_keys(a, least(a.queries, ceil_divide(tile_rows - 1, a.ratio()) + 1));
  return attention_splits(a.rows(), items, blocks, ceil_divide(seen, least_keys));
}

template <class T>
int64_t row_tiles(PagedArguments<T> const& a, int rows) {
  return int64_t(a.batch) * a.groups * ceil_divide(int64_t(a.queries) * a.ratio(), rows);
}

template <class Tile>
cudaError_t launch_paged_few(PagedArguments<typename Tile::T> const& a, PagedLaunch const& launch) {
  int64_t const tiles = row_tiles(a, Tile::kRows);
  // Memory bounds them: more blocks than fit at once even out what each takes.
  int const blocks = 2 * Tile::kResidents, least_keys = Tile::kStages * Tile::kKeys;
  int const splits = paged_splits(a, launch, tiles, Tile::kRows, blocks, least_keys);
  return launch.in_parts(a, splits, [&](AttentionParts const& parts) {
    return launch_tiles<Tile>(paged_window_attention_few_kernel<Tile>, a, tiles * splits, parts, launch.stream);
  });
}

template <class Tile>
cudaError_t launch_paged_mma(PagedArguments<typename Tile::T> const& a, PagedLaunch const& launch) {
  int64_t const tiles = row_tiles(a, Tile::kRows);
  int const splits = paged_splits(a, launch, tiles, Tile::kRows, Tile::kResidents, Tile::kKeys);
  return launch.in_parts(a, splits, [&](AttentionParts const& parts) {
    return launch_tiles<Tile>(paged_window_attention_mma_kernel<Tile>, a, tiles * splits, parts, launch.stream);
  });
}

template <class Tile>
cudaError_t launch_paged_wgmma(PagedArguments<typename Tile::T> const& a, PagedLaunch const& launch) {
  int64_t const tiles = row_tiles(a, Tile::kRows);
  int const splits = paged_splits(a, launch, tiles, Tile::kRows, Tile::kResidents, Tile::kKeys);
  return launch.in_parts(a, splits, [&](AttentionParts const& parts) {
    auto const kernel = paged_window_attention_wgmma_kernel<Tile>;
    constexpr int kShared = sizeof(PagedWgmmaShared<Tile>);
    int64_t const items = tiles * splits;
    cudaError_t const status = items > kMaxGridX ? cudaErrorInvalidValue : allow_shared(kernel, kShared);
    if (status != cudaSuccess) return status;
    auto const blocks = static_cast<unsigned>(least(items, launch.device.multiprocessors));
    kernel<<<blocks, Tile::kThreads, kShared, launch.stream>>>(a, parts, static_cast<int>(items));
    return cudaGetLastError();
  });
}

// kRowTiles, kWgmmaKeys: of the kernels for many rows.
template <class T, int kHeadDim, int kRowTiles, int kWgmmaKeys>
cudaError_t launch_paged_width(PagedArguments<T> const& a, PagedLaunch const& launch) {
  using Few = PagedFewTile<T, kHeadDim>;
  using Many = MmaTile<T, kHeadDim, kRowTiles, 1, 64>;
  using ManyByWgmma = PagedWgmmaTile<T, (kHeadDim + 63) / 64 * 64, kWgmmaKeys>;
  static_assert(std::max({Many::kRows, Many::kKeys, ManyByWgmma::kRows, ManyByWgmma::kKeys}) <= kMostTileExtent);
  if (int64_t(a.queries) * a.ratio() <= Few::kRows) return launch_paged_few<Few>(a, launch);
  return launch.way == PagedWay::kWgmma ? launch_paged_wgmma<ManyByWgmma>(a, launch)
                                        : launch_paged_mma<Many>(a, launch);
}

// Of 32 kChannels channels at most.
template <class T, int kChannels>
cudaError_t launch_paged_exact(PagedArguments<T> const& a, PagedLaunch const& launch) {
  constexpr int64_t kWarps = 16;  // that are to run on a multiprocessor
  constexpr int kLeastKeys = 32;  // of a warp, where blocks share keys
  int shares = 1;
  while (shares < kExactWarps && a.rows() * shares < kWarps * kLargeGpu) shares *= 2;
  int64_t const blocks = ceil_divide(a.rows() * shares, kExactWarps);
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  int const splits = paged_splits(a, launch, blocks, 1, 2 * kWarps / kExactWarps, kLeastKeys * shares);
  return launch.in_parts(a, splits, [&](AttentionParts const& parts) {
    dim3 const grid(static_cast<unsigned>(blocks), static_cast<unsigned>(splits));
    paged_window_attention_exact_kernel<T, kChannels><<<grid, 32 * kExactWarps, 0, launch.stream>>>(a, parts, shares);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t launch_paged_window_attention(PagedArguments<T> const& a, PagedWay way, Device const& device,
                                          void* workspace, cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if (device.capability != 90) way = PagedWay::kMma;
  PagedLaunch const launch{way, device, workspace, stream};
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && takes_whole_chunks(a)) {
      auto const of_width = a.head_dim <= 64    ? launch_paged_width<T, 64, 2, 128>
                            : a.head_dim <= 96  ? launch_paged_width<T, 96, 2, 128>
                            : a.head_dim <= 128 ? launch_paged_width<T, 128, 2, 128>
                                                : launch_paged_width<T, 256, 1, 64>;
      return of_width(a, launch);
    }
  }
  return a.head_dim <= 128 ? launch_paged_exact<T, 4>(a, launch) : launch_paged_exact<T, 8>(a, launch);
}

}  // namespace bridge
