// Attention over a paged cache by mma.sync, from compute capability 8.0 on: the loop of window attention, over keys
// that a table places.
#pragma once

#include "kernels/paged_window_attention/arguments.cuh"
#include "kernels/window_attention/mma.cuh"

namespace bridge {

// As AttentionRows, of sequences whose lengths differ.
template <class T>
struct PagedRows : AttentionRows<T> {
  PagedArguments<T> const& paged;

  __device__ PagedRows(PagedArguments<T> const& a, int tile_rows, int splits, int item)
      : AttentionRows<T>(a, tile_rows, splits, item), paged(a) {}

  __device__ KeyInterval keys(int row) const { return seen_keys(paged, this->batch, this->query(row)); }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile>
struct PagedTiles : IntervalTiles<Tile> {
  using T = typename Tile::T;
  PagedArguments<T> const& a;
  int batch;

  __device__ PagedTiles(PagedArguments<T> const& a, int batch, KeyInterval keys, int split, int splits)
      : IntervalTiles<Tile>(keys, split, splits), a(a), batch(batch) {}

  // Whether any page of these tiles is missing, as far as this thread looks; all threads together look at all of them.
  __device__ bool lacks_pages() const {
    if (this->begin >= this->end) return false;
    int const first = this->keys.begin + this->begin * Tile::kKeys;
    int const last = min(this->keys.begin + this->end * Tile::kKeys, this->keys.end) - 1;
    bool lacks = false;
    for (int place = a.page_of(first) + threadIdx.x; place <= a.page_of(last); place += Tile::kThreads)
      lacks |= a.page(batch, place) < 0;
    return lacks;
  }

  // Where a thread's keys lie: every kStep-th of a tile, in turn. All its pages are looked up before the first key is
  // copied, so that none waits for another. What no row sees, or has no page, is not read: it counts as zeros.
  template <int kStep>
  struct Source {
    static constexpr int kCount = (Tile::kKeys + kStep - 1) / kStep;

    PagedArguments<T> const& a;
    AttentionTensor<T const> const& from;
    int position, turn = 0, group, channel;
    int page[kCount];

    template <class Rows>
    __device__ Source(PagedTiles const& tiles, int tile, AttentionTensor<T const> const& from, Rows const& rows,
                      int key, int channel)
        : a(tiles.a),
          from(from),
          position(tiles.keys.begin + tile * Tile::kKeys + key),
          group(rows.group),
          channel(channel) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        int const each = position + i * kStep;
        page[i] = each < tiles.keys.end ? a.page(tiles.batch, a.page_of(each)) : -1;
      }
    }
    __device__ bool has(int) const { return page[turn] >= 0; }
    __device__ T const* at(int) const {
      return from.row(page[turn], group, position - a.page_of(position) * a.page_size) + channel;
    }
    __device__ void advance() { ++turn, position += kStep; }
  };
};

#endif

// One dimension of blocks, as window attention's. A page that is not there makes NaN of the whole tile of rows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) paged_window_attention_mma_kernel(
    PagedArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  using Rows = PagedRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  MmaAttention<Tile, Rows> attention(a, rows, memory);
  PagedTiles<Tile> const tiles(a, rows.batch, attention.keys, rows.split, parts.count);
  attention.copy_queries();
  bool const wrong = !a.fits(rows.batch) || tiles.lacks_pages();
  attention.walk(tiles);
  if (__syncthreads_or(wrong)) {
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      attention.softmax[i].total[0] = attention.softmax[i].total[1] = NAN;
      for (auto& columns : attention.sum[i]) {
        for (float& each : columns) each = NAN;
      }
    }
  }
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
