// How window attention is cut into items of work, and the scratch memory that this takes. Neither depends on the GPU:
// an engine may be built on another one, or on none.
#pragma once

#include "core/checked.h"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

constexpr int kMostTileExtent = 256;      // rows or keys
constexpr int64_t kLargeGpu = 132;        // multiprocessors, to each of which splits are to give some blocks
constexpr int64_t kMostParts = 256;       // of a row
constexpr int64_t kMostPartRows = 32768;  // of all rows

inline int64_t attention_part_bytes(int64_t head_dim) { return sizeof(float) * head_dim + sizeof(float2); }

// The scratch memory of this size and of every smaller one: parts of few rows are many.
inline Size window_attention_workspace(Size rows, int64_t head_dim) {
  Size const parts = rows > kMostPartRows / kMostParts ? Size(kMostPartRows) : rows * kMostParts;
  return parts * attention_part_bytes(head_dim);
}

// How many blocks share the keys of a tile of rows. tiles: of rows, `rows` all together; blocks: that splits are to
// give a multiprocessor; most_seen: tiles of keys.
inline int attention_splits(int64_t rows, int64_t tiles, int64_t blocks, int64_t most_seen) {
  int64_t const most_splits = least(kMostParts, kMostPartRows / rows);
  return static_cast<int>(most(least(least(blocks * kLargeGpu / tiles, most_seen), most_splits), 1));
}

// The most keys that neighbouring rows see, which have so many queries.
template <class Arguments>
int64_t most_seen_keys(Arguments const& a, int64_t queries) {
  if (a.window_left == kNoWindow || a.window_right == kNoWindow) return a.keys;
  return least(a.keys, queries + a.window_left + a.window_right);
}

struct AttentionPlan {
  bool few = false;
  int64_t items = 0;  // of work: one for each tile of rows and split
  int splits = 1;

  // Few, Many: the tiles of the kernels. Few rows are bound by memory, and want more blocks than fit at once.
  template <class Few, class Many, class Arguments>
  static AttentionPlan of(Arguments const& a, bool has_workspace) {
    bool const few = int64_t(a.queries) * a.ratio() <= Few::kRows;
    return few ? AttentionPlan(a, true, Few::kRows, Few::kKeys, 2 * Few::kResidents, has_workspace)
               : AttentionPlan(a, false, Many::kRows, Many::kKeys, Many::kResidents, has_workspace);
  }

 private:
  // blocks: that splits are to give a multiprocessor.
  template <class Arguments>
  AttentionPlan(Arguments const& a, bool few, int tile_rows, int tile_keys, int blocks, bool has_workspace) : few(few) {
    int64_t const tiles = int64_t(a.batch) * a.groups * ceil_divide(int64_t(a.queries) * a.ratio(), tile_rows);
    int64_t const most_seen = most_seen_keys(a, ceil_divide(tile_rows, a.ratio()) + 1);
    if (has_workspace && tiles > 0)
      splits = attention_splits(a.rows(), tiles, blocks, ceil_divide(most_seen, tile_keys));
    items = tiles * splits;
  }
};

// That many parts in the scratch memory.
template <class T>
AttentionParts attention_parts(WindowAttentionArguments<T> const& a, int splits, void* workspace) {
  AttentionParts parts;
  parts.count = splits;
  if (splits == 1) return parts;
  parts.states = static_cast<float2*>(workspace);
  parts.sums = reinterpret_cast<float*>(parts.states + splits * a.rows());
  return parts;
}

}  // namespace bridge
