// The warpgroup that fetches, of attention to a paged cache by wgmma: queries, and tiles of keys and of values in turn,
// some ahead of the warpgroups that multiply.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/paged_window_attention/places.cuh"

namespace bridge {

// kKeys: of a tile. kTurns: warpgroups take turns in starting products, so that those of one are under way while the
// other computes weights. In shared memory a tile is one of 128-byte rows for each 64 channels, permuted as wgmma wants
// it.
template <class T_, int kHeadDim_, int kKeys_, bool kTurns_ = true>
struct PagedWgmmaTile {
  using T = T_;
  static constexpr bool kTurns = kTurns_;
  static constexpr int kHeadDim = kHeadDim_, kKeys = kKeys_, kRows = 128, kStages = 2, kResidents = 1;
  static constexpr int kWarpgroup = 128, kConsumers = 2 * kWarpgroup, kThreads = kConsumers + kWarpgroup;
  static constexpr int kConsumerRegisters = 232, kProducerRegisters = 40, kLaunchRegisters = 168;
  static constexpr int kRowBytes = 128, kParts = kHeadDim * sizeof(T) / kRowBytes;
  static constexpr int kQueryBytes = kParts * kRows * kRowBytes, kKeyBytes = kParts * kKeys * kRowBytes;
  static_assert(kKeys <= kWarpgroup && kHeadDim % 64 == 0);
};

template <class Tile>
struct PagedWgmmaShared {
  alignas(1024) unsigned char q[Tile::kQueryBytes];
  alignas(1024) unsigned char tile[Tile::kStages][2][Tile::kKeyBytes];  // keys, values
  KeyPlace place[2][Tile::kKeys];                                       // of every other tile
  // full: what the tile holds has arrived, and the queries with the first of a work item. empty: it may be overwritten.
  SharedBarrier full[Tile::kStages][2], empty[Tile::kStages][2], q_empty;

  __device__ void init() {
    for (int i = 0; i < 2 * Tile::kStages; ++i) {
      full[i / 2][i % 2].init(Tile::kWarpgroup);
      empty[i / 2][i % 2].init(Tile::kConsumers / 32);
    }
    q_empty.init(Tile::kConsumers / 32);
    publish_to_wgmma();
  }
};

// A tile of rows and its keys; blocks take one after the other.
template <class Tile>
struct PagedWork {
  using T = typename Tile::T;
  PagedRows<T> rows;
  KeyInterval keys;
  KeyTiles tiles;

  __device__ PagedWork(PagedArguments<T> const& a, int item, int splits)
      : rows(a, Tile::kRows, splits, item),
        keys(covering_of_warp(rows, 0, Tile::kRows)),
        tiles(keys, Tile::kKeys, rows.split, splits) {}
};

#ifdef BRIDGE_WGMMA

// One thread's share. Copies are counted from the block's beginning: of tile n, its keys are copy 2 n, its values the
// next.
template <class Tile>
struct PagedCopies {
  using T = typename Tile::T;
  using Work = PagedWork<Tile>;
  static constexpr int kChunks = Tile::kHeadDim * sizeof(T) / kAccessBytes, kInChunk = kAccessBytes / sizeof(T);
  static constexpr int kAtOnce = Tile::kWarpgroup / kChunks;  // rows
  static constexpr int kTogether = 4;                         // rows whose places are read at once
  static constexpr int kPending = 2;                          // copies that are not waited for
  static_assert(Tile::kKeys % (kTogether * kAtOnce) == 0);
  static constexpr int kPlaced = 1;  // number of a barrier; PagedWgmma has the next ones

  PagedArguments<T> const& a;
  PagedWgmmaShared<Tile>& shared;
  int thread = threadIdx.x % Tile::kWarpgroup;
  int started = 0, told = 0, fetched_queries = 0;
  PlaceRequest request;

  __device__ SharedBarrier& full(int copy) { return shared.full[copy / 2 % Tile::kStages][copy % 2]; }
  __device__ SharedBarrier& empty(int copy) { return shared.empty[copy / 2 % Tile::kStages][copy % 2]; }

  __device__ void fetch(Work const& work) {
    look(work, work.tiles.begin);
    for (int tile = work.tiles.begin; tile < work.tiles.end; ++tile) {
      place(work, tile);
      wait(empty(started), started / 2 / Tile::kStages);
      if (tile == work.tiles.begin) fetch_queries(work);
      fetch_tile(work, a.k);
      wait(empty(started), started / 2 / Tile::kStages);
      fetch_tile(work, a.v);
    }
  }

  // Tells of all copies but the last `pending`.
  template <int kLeft>
  __device__ void tell() {
    if (told >= started - kLeft) return;
    wait_for_copies_but<kLeft>();
    publish_to_wgmma();
    for (; told < started - kLeft; ++told) full(told).arrive();
  }

 private:
  // Until a place is empty for the `round`-th time after the first. Who empties it may wait for copies not told of yet.
  __device__ void wait(SharedBarrier& barrier, int round) {
    uint32_t const parity = (round + 1) % 2;
    if (barrier.test(parity)) return;
    tell<0>();
    barrier.wait(parity);
  }

  // Asks where this thread's key of a tile lies.
  __device__ void look(Work const& work, int tile) {
    int const key = work.keys.begin + tile * Tile::kKeys + thread;
    request.ask(a, work.rows.batch, key, thread < Tile::kKeys && tile < work.tiles.end && key < work.keys.end);
  }
  // Tells all threads of it, and asks for the next one.
  __device__ void place(Work const& work, int tile) {
    if (thread < Tile::kKeys) shared.place[started / 2 % 2][thread] = request.place(a);
    synchronize_some(kPlaced, Tile::kWarpgroup);
    look(work, tile + 1);
  }

  // Where this thread's 16 bytes of a row lie in a tile of `count` rows.
  __device__ uint32_t target(unsigned char* tile, int count, int row) const {
    int const chunk = thread % kChunks;
    return shared_address(tile) + (chunk / 8 * count + row) * Tile::kRowBytes + (chunk % 8 ^ row % 8) * kAccessBytes;
  }
  __device__ bool inside() const { return first_channel() < a.head_dim; }
  __device__ int first_channel() const { return thread % kChunks * kInChunk; }

  __device__ void fetch_queries(Work const& work) {
    wait(shared.q_empty, fetched_queries++);
    for (int row = thread / kChunks; row < Tile::kRows; row += kAtOnce) {
      T const* const from = inside() ? work.rows.q(row) + first_channel() : a.q.data;
      copy_async_or_zero(target(shared.q, Tile::kRows, row), from, inside());
    }
  }

  // from: keys or values, by turns.
  __device__ void fetch_tile(Work const& work, AttentionTensor<T const> const& from) {
    int const which = started % 2;
    unsigned char* const to = shared.tile[started / 2 % Tile::kStages][which];
    T const* const first = from.data + work.rows.group * from.strides.head + first_channel();
    KeyPlace const* const places = shared.place[started / 2 % 2];
#pragma unroll 1
    for (int key = thread / kChunks; key < Tile::kKeys; key += kTogether * kAtOnce) {
      int64_t place[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        KeyPlace const& each = places[key + i * kAtOnce];
        place[i] = which == 0 ? each.k : each.v;
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
        copy_place(target(to, Tile::kKeys, key + i * kAtOnce), first, place[i], inside());
    }
    commit_copies();
    ++started;
    tell<kPending>();
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
