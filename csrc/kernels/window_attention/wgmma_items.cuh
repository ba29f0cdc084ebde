// Items of work of window attention by wgmma: tiles of whole queries, with the keys that they see.
#pragma once

#include "kernels/window_attention/wgmma_tile.cuh"

namespace bridge {

// All of them: those of a key head are `tiles` tiles of rows, with `splits` shares of the keys each. together: key
// heads whose tiles are computed side by side.
struct WindowItems {
  int ratio, tiles, splits, count, together;
};

// A block's items, one a round, counted forwards and backwards by turns: the first of a round have the most keys.
__device__ inline int item_of_round(int round) {
  int const place = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
  return round * gridDim.x + place;
}

// One: a tile of rows, and the tiles begin to end - 1 of the keys that they see.
struct WindowItem {
  int batch, group, first_query, split;
  KeyInterval keys;
  int begin, end;
};

template <class Tile>
using WindowShared = WgmmaShared<Tile, WindowItem, 2 * Tile::kQueryTiles>;  // items until results have been written

// As AttentionRows, of whole queries: their heads of one key head, query after query.
template <class T>
struct QueryRows {
  using Element = T;
  WindowAttentionArguments<T> const& a;
  int batch, group, split, first_query, ratio, count;
  uint32_t per_row;  // 2^16 / ratio, upwards: divides numbers of rows

  __device__ QueryRows(WindowAttentionArguments<T> const& a, int ratio, int tile_queries, WindowItem const& item)
      : a(a),
        batch(item.batch),
        group(item.group),
        split(item.split),
        first_query(item.first_query),
        ratio(ratio),
        count(min(tile_queries, a.queries - item.first_query) * ratio),
        per_row((1u << 16) / ratio + 1) {}

  __device__ bool has(int row) const { return row < count; }
  __device__ int at(int row) const { return min(row, count - 1); }
  __device__ int query_in_tile(int row) const { return at(row) * per_row >> 16; }
  __device__ int query(int row) const { return first_query + query_in_tile(row); }
  __device__ int head(int row) const { return group * ratio + at(row) - query_in_tile(row) * ratio; }
  __device__ T* out(int row) const { return a.out.row(batch, head(row), query(row)); }
  __device__ KeyInterval keys(int row) const { return seen_keys(a, batch, query(row)); }
  __device__ int64_t part_index(int row) const {
    return split * a.rows() + (int64_t(batch) * a.heads + head(row)) * a.queries + query(row);
  }

  // What rows begin to end - 1 see, of neighbouring intervals; every thread of a warp gets the same.
  __device__ KeyInterval covering_of_rows(int begin, int end) const {
    return a.key_ranges ? covering_of_warp(*this, begin, end) : window_of(query(begin), query(end - 1));
  }

 private:
  // Windows move on with queries.
  __device__ KeyInterval window_of(int first, int last) const {
    int64_t const shift = int64_t(a.keys) - a.queries;
    int64_t const begin = a.window_left == kNoWindow ? 0 : most(0, shift + first - a.window_left);
    int64_t const end = a.window_right == kNoWindow ? a.keys : least(a.keys, shift + last + a.window_right + 1);
    return begin < end ? KeyInterval{static_cast<int>(begin), static_cast<int>(end)} : KeyInterval{0, 0};
  }
};

// Items count groups of `together` key heads, then the group's tiles of rows, key heads and splits. The last tile of
// rows comes first: with causal attention it has the most keys.
template <class Tile>
__device__ WindowItem window_item(WindowAttentionArguments<typename Tile::T> const& a, WindowItems const& all,
                                  int number) {
  WindowItem item;
  int const queries = Tile::queries(all.ratio), rest = number / all.splits;
  int const first = rest / (all.together * all.tiles) * all.together;
  int const here = min(all.together, a.batch * a.groups - first), place = rest - first * all.tiles, rank = place / here;
  int const which = first + place - rank * here;
  item.split = number - rest * all.splits;
  item.first_query = (all.tiles - 1 - rank) * queries;
  item.batch = which / a.groups, item.group = which - item.batch * a.groups;
  QueryRows<typename Tile::T> const rows(a, all.ratio, queries, item);
  item.keys = rows.covering_of_rows(0, rows.count);
  KeyTiles const tiles(item.keys, Tile::kKeys, item.split, all.splits);
  item.begin = tiles.begin, item.end = tiles.end;
  return item;
}

}  // namespace bridge
