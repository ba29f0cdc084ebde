// How attention of few rows is cut into blocks.
#pragma once

#include "kernels/window_attention/plan.cuh"

namespace bridge {

constexpr int kMostClusterBlocks = 8;  // that every GPU of compute capability 9.0 runs at once

// blocks: of a cluster, which share the keys of a part and join what they have in shared memory.
struct StreamPlan {
  int64_t tiles;  // of rows
  int blocks = 1, parts = 1;

  int64_t items() const { return tiles * blocks * parts; }

  // Keys are split until each multiprocessor has a block. Parts are joined by one more kernel, which takes as long as a
  // block does for kPartBytes of keys and values.
  template <class Tile, class T>
  static StreamPlan of(WindowAttentionArguments<T> const& a, bool has_workspace) {
    constexpr int64_t kPartBytes = 1 << 20;
    StreamPlan plan{int64_t(a.batch) * a.groups * ceil_divide(int64_t(a.queries) * a.ratio(), Tile::kRows)};
    int64_t const keys = most_seen_keys(a, a.queries);
    while (plan.blocks < kMostClusterBlocks && 2 * plan.items() <= kLargeGpu && plan.blocks * Tile::kKeys < keys)
      plan.blocks *= 2;
    int64_t const bytes = keys * a.head_dim * int64_t(2 * sizeof(T)) / plan.blocks;
    int64_t const most = least(least(kLargeGpu / plan.items(), bytes / kPartBytes), kMostPartRows / a.rows());
    if (has_workspace) plan.parts = static_cast<int>(most > 1 ? least(most, kMostParts) : 1);
    return plan;
  }
};

}  // namespace bridge
