// Attention of each query to an interval of keys: which kernel computes it.
#pragma once

#include <optional>

#include "core/device.h"
#include "kernels/window_attention/fma.cuh"
#include "kernels/window_attention/launch.cuh"
#include "kernels/window_attention/mma.cuh"
#include "kernels/window_attention/plan.cuh"
#include "kernels/window_attention/stream/stream.cuh"
#include "kernels/window_attention/wgmma.cuh"

namespace bridge {

// Of 16-bit types: the kernel for every GPU, and those of compute capability 9.0. Heads of 97 to 128 channels have two
// of the latter, one for narrow windows.
enum class WindowAttentionWay { kMma = 0, kWgmma = 1, kWgmmaNarrow = 2 };

// As many as keep the keys and values that a tile of rows sees in the L2 cache.
template <class T>
int key_heads_together(WindowAttentionArguments<T> const& a, int64_t seen_keys) {
  constexpr int64_t kKeptBytes = 16 << 20;
  int64_t const of_key_head = int64_t(2 * sizeof(T)) * a.head_dim * most(seen_keys, 1);
  return static_cast<int>(most(least(kKeptBytes / of_key_head, int64_t(a.batch) * a.groups), 1));
}

// Nothing where other kernels are to compute it.
template <class Tile>
std::optional<cudaError_t> try_wgmma(WindowAttentionArguments<typename Tile::T> const& a, int multiprocessors,
                                     void* workspace, cudaStream_t stream) {
  AttentionMaps maps;
  if (!make_attention_maps<Tile>(maps, a, a.ratio(), Tile::kKeys)) return {};
  int const queries = Tile::queries(a.ratio());
  int64_t const of_group = ceil_divide(a.queries, queries), tiles = of_group * a.batch * a.groups;
  int64_t const seen_keys = most_seen_keys(a, queries), key_tiles = ceil_divide(seen_keys, Tile::kKeys);
  int const splits = workspace ? attention_splits(a.rows(), tiles, Tile::kResidents, key_tiles) : 1;
  int64_t const items = tiles * splits;
  WindowItems const all{a.ratio(), static_cast<int>(of_group), splits, static_cast<int>(items),
                        key_heads_together(a, seen_keys)};
  return launch_wgmma<WindowShared<Tile>>(window_attention_wgmma_kernel<Tile>,
                                          least(items, multiprocessors * Tile::kResidents), items, a,
                                          attention_parts(a, splits, workspace), maps, all, stream);
}

// Few blocks have more keys on their way and at once, each for itself; of many, several fit a multiprocessor.
template <class Few, class Many, class T>
std::optional<cudaError_t> try_stream_tiles(WindowAttentionArguments<T> const& a, void* workspace,
                                            cudaStream_t stream) {
  bool const few = 2 * int64_t(a.batch) * a.groups <= kLargeGpu;
  return few ? try_stream<Few>(a, workspace, stream) : try_stream<Many>(a, workspace, stream);
}

// Of 16 rows of a key head at most.
template <class T, int kRowTiles>
std::optional<cudaError_t> try_stream_width(WindowAttentionArguments<T> const& a, void* workspace,
                                            cudaStream_t stream) {
  auto const launch =
      a.head_dim <= 64
          ? try_stream_tiles<StreamTile<T, 64, kRowTiles, 8, 32, 2, 1>, StreamTile<T, 64, kRowTiles, 4, 16, 2, 4>, T>
      : a.head_dim <= 128
          ? try_stream_tiles<StreamTile<T, 128, kRowTiles, 8, 32, 1, 1>,
                             StreamTile<T, 128, kRowTiles, 4, 32 / kRowTiles, kRowTiles, 3>, T>
          : try_stream_tiles<StreamTile<T, 256, kRowTiles, 4, 16, 3, 1>, StreamTile<T, 256, kRowTiles, 4, 16, 1, 2>, T>;
  return launch(a, workspace, stream);
}

// Tiles of 192 rows need fewer keys from the L2 cache, and tiles of 128 are enough for all multiprocessors sooner.
template <class T>
std::optional<cudaError_t> try_wgmma_128(WindowAttentionArguments<T> const& a, bool narrow, int multiprocessors,
                                         void* workspace, cudaStream_t stream) {
  using Many = WgmmaTile<T, 128, 3, 80, 3>;
  auto const launch = narrow                                ? try_wgmma<WgmmaTile<T, 128, 3, 64, 4>>
                      : a.rows() >= kLargeGpu * Many::kRows ? try_wgmma<Many>
                                                            : try_wgmma<WgmmaTile<T, 128, 2, 160, 2, 1>>;
  return launch(a, multiprocessors, workspace, stream);
}

template <class T>
std::optional<cudaError_t> try_wgmma_width(WindowAttentionArguments<T> const& a, bool narrow, int multiprocessors,
                                           void* workspace, cudaStream_t stream) {
  int64_t const rows = int64_t(a.queries) * a.ratio();
  if (rows <= 8) return try_stream_width<T, 1>(a, workspace, stream);
  if (rows <= 16) return try_stream_width<T, 2>(a, workspace, stream);
  if (a.head_dim > 96 && a.head_dim <= 128) return try_wgmma_128(a, narrow, multiprocessors, workspace, stream);
  auto const launch = a.head_dim <= 64   ? try_wgmma<WgmmaTile<T, 64, 4, 64, 8>>
                      : a.head_dim <= 96 ? try_wgmma<WgmmaTile<T, 96, 2, 128, 2>>
                                         : try_wgmma<WgmmaTile<T, 256, 2, 80, 2, 1>>;
  return launch(a, multiprocessors, workspace, stream);
}

template <class Tile>
auto window_attention_kernel() {
  if constexpr (kIsFmaTile<Tile>) {
    return window_attention_fma_kernel<Tile>;
  } else {
    return window_attention_mma_kernel<Tile>;
  }
}

// Few, Many: tiles of rows.
template <class Few, class Many>
cudaError_t launch_few_or_many(WindowAttentionArguments<typename Few::T> const& a, void* workspace,
                               cudaStream_t stream) {
  static_assert(std::max(Many::kRows, Many::kKeys) <= kMostTileExtent);
  auto const plan = AttentionPlan::of<Few, Many>(a, workspace != nullptr);
  AttentionParts const parts = attention_parts(a, plan.splits, workspace);
  cudaError_t const status = plan.few
                                 ? launch_tiles<Few>(window_attention_kernel<Few>(), a, plan.items, parts, stream)
                                 : launch_tiles<Many>(window_attention_kernel<Many>(), a, plan.items, parts, stream);
  return status == cudaSuccess && parts.count > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

// kRowTiles, kKeys: of the kernel for many rows.
template <class T, int kHeadDim, int kRowTiles, int kKeys>
cudaError_t launch_mma(WindowAttentionArguments<T> const& a, void* workspace, cudaStream_t stream) {
  return launch_few_or_many<MmaTile<T, kHeadDim, 1, 4, 64>, MmaTile<T, kHeadDim, kRowTiles, 1, kKeys>>(a, workspace,
                                                                                                       stream);
}

template <class T>
cudaError_t launch_fma(WindowAttentionArguments<T> const& a, void* workspace, cudaStream_t stream) {
  auto const launch = a.head_dim <= 64    ? launch_few_or_many<FmaFew<T, 64>, FmaMany<T, 64>>
                      : a.head_dim <= 128 ? launch_few_or_many<FmaFew<T, 128>, FmaMany<T, 128>>
                                          : launch_few_or_many<FmaFew<T, 256>, FmaMany<T, 256>>;
  return launch(a, workspace, stream);
}

template <class T>
cudaError_t launch_halves(WindowAttentionArguments<T> const& a, void* workspace, cudaStream_t stream) {
  auto const launch = a.head_dim <= 64    ? launch_mma<T, 64, 2, 64>
                      : a.head_dim <= 96  ? launch_mma<T, 96, 2, 64>
                      : a.head_dim <= 128 ? launch_mma<T, 128, 2, 64>
                                          : launch_mma<T, 256, 1, 64>;
  return launch(a, workspace, stream);
}

// workspace may be null: keys are not split then.
template <class T>
cudaError_t launch_window_attention(WindowAttentionArguments<T> const& a, WindowAttentionWay way, Device const& device,
                                    void* workspace, cudaStream_t stream) {
  if (a.rows() == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && takes_whole_chunks(a)) {
      bool const narrow = way == WindowAttentionWay::kWgmmaNarrow;
      std::optional<cudaError_t> status;
      if (device.capability == 90 && way != WindowAttentionWay::kMma)
        status = try_wgmma_width(a, narrow, device.multiprocessors, workspace, stream);
      return status ? *status : launch_halves(a, workspace, stream);
    }
  }
  return launch_fma(a, workspace, stream);
}

}  // namespace bridge
