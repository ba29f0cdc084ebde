// Which rows and keys a block computes, and where it writes them. A row is a query of one head; the heads that share a
// key head are packed into one list of rows, query after query, so that a tile of rows spans few positions.
#pragma once

#include <climits>

#include "kernels/window_attention/softmax.cuh"

namespace bridge {

// Results of parts of the keys, which results.cuh makes one of. A part without keys has total 0.
struct AttentionParts {
  float2* states = nullptr;  // [count, rows], largest logit and total of the weights
  float* sums = nullptr;     // [count, rows, head_dim], not divided by the total
  int count = 1;             // blocks that share the keys of a tile of rows
};

template <class T>
struct AttentionRows {
  using Element = T;
  WindowAttentionArguments<T> const& a;
  int batch, group, first, count;  // of the group's rows, which are `count`, the first of this tile
  int split;

  // item: counts batch, group, tile of rows and split. The last tile of rows comes first: with causal attention it has
  // the most keys.
  __device__ AttentionRows(WindowAttentionArguments<T> const& a, int tile_rows, int splits, int item)
      : a(a), count(a.queries * a.ratio()) {
    int const tiles = (count + tile_rows - 1) / tile_rows, which = item / splits / tiles;
    split = item % splits;
    first = (tiles - 1 - item / splits % tiles) * tile_rows;
    batch = which / a.groups, group = which % a.groups;
  }

  __device__ bool has(int row) const { return first + row < count; }
  // Rows past the last stand for it: they are computed, and not written.
  __device__ int at(int row) const { return min(first + row, count - 1); }
  __device__ int query(int row) const { return at(row) / a.ratio(); }
  __device__ int head(int row) const { return group * a.ratio() + at(row) % a.ratio(); }
  __device__ T const* q(int row) const { return a.q.row(batch, head(row), query(row)); }
  __device__ T* out(int row) const { return a.out.row(batch, head(row), query(row)); }
  __device__ KeyInterval keys(int row) const { return seen_keys(a, batch, query(row)); }
  // Where this block's part of a row lies.
  __device__ int64_t part_index(int row) const {
    return split * a.rows() + (int64_t(batch) * a.heads + head(row)) * a.queries + query(row);
  }
};

// The keys that any of the rows begin to end - 1 sees; every thread of a warp gets the same.
template <class Rows>
__device__ KeyInterval covering_of_warp(Rows const& rows, int begin, int end) {
  KeyInterval all{0, 0};
  for (int row = begin + threadIdx.x % 32; row < end; row += 32) all = covering(all, rows.keys(row));
  int first = all.empty() ? INT_MAX : all.begin, last = all.empty() ? INT_MIN : all.end;
#if __CUDA_ARCH__ >= 800
  first = __reduce_min_sync(~0u, first), last = __reduce_max_sync(~0u, last);
#else
  for (int apart = 16; apart > 0; apart /= 2) {
    first = min(first, __shfl_xor_sync(~0u, first, apart));
    last = max(last, __shfl_xor_sync(~0u, last, apart));
  }
#endif
  return first < last ? KeyInterval{first, last} : KeyInterval{0, 0};
}

// A range of whole tiles of keys, of which a split gets its share.
struct KeyTiles {
  int begin, end;

  __device__ KeyTiles(KeyInterval keys, int tile_keys, int split, int splits) {
    int64_t const tiles = (keys.end - keys.begin + tile_keys - 1) / tile_keys;
    begin = static_cast<int>(tiles * split / splits), end = static_cast<int>(tiles * (split + 1) / splits);
  }
};

// Tiles of an interval of keys, one after the other.
template <class Tile>
struct IntervalTiles : KeyTiles {
  using T = typename Tile::T;
  KeyInterval keys;

  __device__ IntervalTiles(KeyInterval keys, int split, int splits)
      : KeyTiles(keys, Tile::kKeys, split, splits), keys(keys) {}

  __device__ int position(int tile, int key) const { return keys.begin + tile * Tile::kKeys + key; }
  __device__ auto part(int tile, int warp_key) const { return KeyRun<Tile::kKeysOfWarp>{position(tile, warp_key)}; }

  // Where a thread's keys lie: every kStep-th of a tile, in turn. What no row sees is not read: it counts as zeros.
  template <int kStep>
  struct Source {
    int first, end;
    T const* next;
    int64_t step;

    template <class Rows>
    __device__ Source(IntervalTiles const& tiles, int tile, AttentionTensor<T const> const& from, Rows const& rows,
                      int key, int channel)
        : first(tiles.position(tile, 0)),
          end(tiles.keys.end),
          next(from.row(rows.batch, rows.group, first + key) + channel),
          step(kStep * from.strides.seq) {}
    __device__ bool has(int key) const { return first + key < end; }
    __device__ T const* at(int) const { return next; }
    __device__ void advance() { next += step; }
  };
};

}  // namespace bridge
