// Attention of many queries to a paged cache by mma.sync, from compute capability 8.0 on: the loop of window attention,
// over keys that a table places.
#pragma once

#include "kernels/paged_window_attention/few.cuh"

namespace bridge {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Where the keys of two tiles lie, this one's and the next one's, is in shared memory: in the bytes beyond the rows of
// keys, and of values.
template <class Tile>
struct PagedTiles : IntervalTiles<Tile> {
  using T = typename Tile::T;
  PagedArguments<T> const& a;
  int batch;
  uint32_t shared;  // of keys
  static_assert(Tile::kThreads >= Tile::kKeys && Tile::kShares == 1);

  __device__ PagedTiles(PagedArguments<T> const& a, PagedRows<T> const& rows, KeyInterval keys, int splits,
                        uint32_t shared)
      : IntervalTiles<Tile>(keys, rows.split, splits), a(a), batch(rows.batch), shared(shared) {
    keep(this->begin, ask(this->begin));
  }

  __device__ uint32_t place(int tile, int key) const {
    return shared + ((tile - this->begin) % 2 * Tile::kKeys + key + 1) * Tile::kRowBytes - kAccessBytes;
  }
  // Where this thread's key of a tile lies.
  __device__ PlaceRequest ask(int tile) const {
    int const key = this->keys.begin + tile * Tile::kKeys + threadIdx.x;
    PlaceRequest request;
    request.ask(a, batch, key, threadIdx.x < Tile::kKeys && tile < this->end && key < this->keys.end);
    return request;
  }
  __device__ void keep(int tile, PlaceRequest const& request) const {
    if (threadIdx.x < Tile::kKeys) store_place(place(tile, threadIdx.x), request.place(a));
  }

  // Where a thread's keys lie: every kStep-th of a tile, in turn. While values of a tile are copied, the places of the
  // tile before are not needed any more: those of the next one come there.
  template <int kStep>
  struct Source {
    PagedTiles const& tiles;
    int tile;
    bool values;
    T const* from;
    uint32_t next;
    int64_t found = kNowhere;
    PlaceRequest request;

    template <class Rows>
    __device__ Source(PagedTiles const& tiles, int tile, AttentionTensor<T const> const& cache, Rows const& rows,
                      int key, int channel)
        : tiles(tiles),
          tile(tile),
          values(&cache == &tiles.a.v),
          from(cache.data + rows.group * cache.strides.head + channel),
          next(tiles.place(tile, key)) {
      if (values) request = tiles.ask(tile + 1);
    }
    __device__ ~Source() {
      if (values) tiles.keep(tile + 1, request);
    }
    __device__ bool has(int) {
      KeyPlace const place = load_place(next);
      found = values ? place.v : place.k;
      return found != kNowhere;
    }
    __device__ T const* at(int) const { return found < 0 ? reinterpret_cast<T const*>(&kNanChunk) : from + found; }
    __device__ void advance() { next += kStep * Tile::kRowBytes; }
  };
};

#endif

// One dimension of blocks, as window attention's.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) paged_window_attention_mma_kernel(
    PagedArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  let_next_kernel_begin();
  using Rows = PagedRows<typename Tile::T>;
  Rows const rows(a, Tile::kRows, parts.count, blockIdx.x);
  MmaAttention<Tile, Rows> attention(a, rows, memory);
  attention.copy_queries();
  PagedTiles<Tile> const tiles(a, rows, attention.keys, parts.count, attention.shared_k);
  __syncthreads();
  attention.walk(tiles);
  if (!rows.fits()) spoil(attention.softmax, attention.sum);
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
