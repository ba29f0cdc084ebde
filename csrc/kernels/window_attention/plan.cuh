// How window attention is cut into items of work, and the scratch memory that this takes. Neither depends on the GPU:
// an engine may be built on another one, or on none.
#pragma once

#include "core/checked.h"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

constexpr int kMostTileRows = 128;
constexpr int kFewRows = 16;              // of a group: one tile of rows, whose keys warps share
constexpr int64_t kSplitBlocks = 264;     // as many as splits are to give: two for each multiprocessor of a large GPU
constexpr int64_t kMostParts = 256;       // of a row
constexpr int64_t kMostPartRows = 32768;  // of all rows

inline int64_t attention_part_bytes(int64_t head_dim) { return sizeof(float) * head_dim + sizeof(float2); }

// The scratch memory of this size and of every smaller one: parts of few rows are many.
inline Size window_attention_workspace(Size rows, int64_t head_dim) {
  Size const parts = rows > kMostPartRows / kMostParts ? Size(kMostPartRows) : rows * kMostParts;
  return parts * attention_part_bytes(head_dim);
}

struct AttentionPlan {
  bool few = false;
  int64_t items = 0;  // of work: one for each tile of rows and split
  int splits = 1;

  // tile_rows: of the kernel for many rows.
  template <class Arguments>
  AttentionPlan(Arguments const& a, int tile_rows, int tile_keys, bool has_workspace) {
    int64_t const group_rows = int64_t(a.queries) * a.ratio();
    few = group_rows <= kFewRows;
    tile_rows = few ? kFewRows : tile_rows;
    int64_t const tiles = int64_t(a.batch) * a.groups * ceil_divide(group_rows, tile_rows);
    if (has_workspace && tiles > 0) {
      int64_t const most_splits = least(kMostParts, kMostPartRows / a.rows());
      int64_t const wanted = least(kSplitBlocks / tiles, ceil_divide(most_seen(a, tile_rows), tile_keys));
      splits = static_cast<int>(most(least(wanted, most_splits), 1));
    }
    items = tiles * splits;
  }

  // The most keys that a tile of rows sees.
  template <class Arguments>
  static int64_t most_seen(Arguments const& a, int tile_rows) {
    int64_t const positions = ceil_divide(tile_rows, a.ratio()) + 1;
    if (a.window_left == kNoWindow || a.window_right == kNoWindow) return a.keys;
    return least(a.keys, positions + a.window_left + a.window_right);
  }
};

// The parts of a plan in the scratch memory.
template <class T>
AttentionParts attention_parts(WindowAttentionArguments<T> const& a, AttentionPlan const& plan, void* workspace) {
  AttentionParts parts;
  parts.count = plan.splits;
  if (plan.splits == 1) return parts;
  parts.states = static_cast<float2*>(workspace);
  parts.sums = reinterpret_cast<float*>(parts.states + plan.splits * a.rows());
  return parts;
}

}  // namespace bridge
