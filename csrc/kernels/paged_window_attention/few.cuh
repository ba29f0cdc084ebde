// Attention of few queries to a paged cache by mma.sync, from compute capability 8.0 on: memory bounds it. Warps have
// the same rows, and each streams keys of its own, some ahead of those that it multiplies; no warp waits for another
// one before the end.
#pragma once

#include "kernels/paged_window_attention/places.cuh"
#include "kernels/window_attention/mma.cuh"

namespace bridge {

// As MmaTile. kStages: tiles of keys and values in shared memory.
template <class T_, int kHeadDim_, int kStages_ = 2, int kResidents_ = 3>
struct PagedFewTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kStages = kStages_, kResidents = kResidents_;
  static constexpr int kWarps = kHeadDim > 128 ? 2 : 4, kShares = kWarps, kThreads = 32 * kWarps;
  static constexpr int kRowTiles = 1, kRowsOfWarp = 16, kRows = kRowsOfWarp;
  static constexpr int kKeysOfWarp = 16, kKeys = kKeysOfWarp * kShares;
  static constexpr int kRowBytes = kHeadDim * sizeof(T) + kAccessBytes;  // the last bytes of a key's hold its place
  static constexpr int kPartBytes = kKeysOfWarp * kRowBytes;             // a warp's keys, or values, of a tile
  static constexpr int kSharedBytes = (kRows + 2 * kStages * kKeys) * kRowBytes;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile>
struct PagedStream : MmaAttention<Tile, PagedRows<typename Tile::T>> {
  using T = typename Tile::T;
  using Base = MmaAttention<Tile, PagedRows<T>>;
  using Base::a, Base::keys, Base::kChunks, Base::rows, Base::shared_k, Base::shared_v;
  static constexpr int kAtOnce = 32 / kChunks;  // keys that a warp copies
  static constexpr int kCopies = Tile::kKeysOfWarp / kAtOnce;
  static constexpr int kLooked = 32 / Tile::kKeysOfWarp;  // tiles, by a lane for each key
  static constexpr int kGroups = 2 * Tile::kStages;       // of copies: keys and values of each stage
  static_assert(Tile::kStages % kLooked == 0 && Tile::kKeysOfWarp % kAtOnce == 0);

  PagedArguments<T> const& paged;
  KeyTiles const tiles;
  int const warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t const ring;
  PlaceRequest request;

  __device__ PagedStream(PagedArguments<T> const& a, PagedRows<T> const& rows, int splits, unsigned char* memory)
      : Base(a, rows, memory),
        paged(a),
        tiles(keys, Tile::kKeys, rows.split, splits),
        ring(shared_k + warp * Tile::kStages * 2 * Tile::kPartBytes) {
    this->warp_key = 0;
  }

  __device__ void walk() {
    this->copy_queries();
    if (tiles.begin >= tiles.end) return wait_for_copies();
    look(tiles.begin);
#pragma unroll 1
    for (int i = -Tile::kStages; i < tiles.end - tiles.begin; ++i) {
      if (i == 0) wait_for_queries();
      if (i >= 0) use(i);
      __syncwarp();
      refill(i + Tile::kStages);
    }
    wait_for_copies();
  }

 private:
  __device__ uint32_t stage(int i) const { return ring + i % Tile::kStages * 2 * Tile::kPartBytes; }
  __device__ static uint32_t place(uint32_t stage, int key) {
    return stage + (key + 1) * Tile::kRowBytes - kAccessBytes;
  }
  __device__ int first_key(int tile) const { return keys.begin + tile * Tile::kKeys + warp * Tile::kKeysOfWarp; }

  // They came with the first keys.
  __device__ void wait_for_queries() const {
    wait_for_copies_but<kGroups - 1>();
    __syncthreads();
  }

  // Asks where the keys of kLooked tiles lie.
  __device__ void look(int tile) {
    int const mine = tile + lane / Tile::kKeysOfWarp, key = first_key(mine) + lane % Tile::kKeysOfWarp;
    request.ask(paged, rows.batch, key, mine < tiles.end && key < keys.end);
  }

  // Copies the i-th tile of the block, once its stage is free.
  __device__ void refill(int i) {
    if (i % kLooked == 0) {
      store_place(place(stage(i + lane / Tile::kKeysOfWarp), lane % Tile::kKeysOfWarp), request.place(paged));
      __syncwarp();
      look(tiles.begin + i + kLooked);
    }
    if (tiles.begin + i < tiles.end) {
      copy(stage(i));
    } else {
      commit_copies(), commit_copies();
    }
  }
  __device__ void copy(uint32_t stage) const {
    int const chunk = lane % kChunks, first = lane / kChunks, channel = chunk * Base::kInChunk;
    bool const copies = first < kAtOnce, inside = channel < a.head_dim;
    KeyPlace places[kCopies];
#pragma unroll
    for (int i = 0; i < kCopies; ++i) places[i] = load_place(place(stage, min(first, kAtOnce - 1) + i * kAtOnce));
    auto copy = [&](uint32_t to, AttentionTensor<T const> const& from, int64_t KeyPlace::* place) {
      T const* const source = from.data + rows.group * from.strides.head + channel;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        if (copies) copy_place(to + i * kAtOnce * Tile::kRowBytes, source, places[i].*place, inside);
      }
      commit_copies();
    };
    uint32_t const to = stage + first * Tile::kRowBytes + chunk * kAccessBytes;
    copy(to, paged.k, &KeyPlace::k);
    copy(to + Tile::kPartBytes, paged.v, &KeyPlace::v);
  }

  __device__ void use(int i) {
    KeyRun<Tile::kKeysOfWarp> const part{first_key(tiles.begin + i)};
    bool const sees = part.begin() < keys.end;
    shared_k = stage(i), shared_v = shared_k + Tile::kPartBytes;
    float product[1][Base::kKeyColumns][4] = {};
    wait_for_copies_but<kGroups - 1>();
    __syncwarp();
    if (sees) this->multiply_keys(product);
    wait_for_copies_but<kGroups - 2>();
    __syncwarp();
    if (!sees) return;
    this->weigh(product, part);
    this->add_values(product);
  }
};

#endif

// Makes NaN of all rows.
template <int kRowTiles, int kColumns>
__device__ void spoil(SoftmaxRows (&softmax)[kRowTiles], float (&sum)[kRowTiles][kColumns][4]) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    softmax[i].total[0] = softmax[i].total[1] = NAN;
#pragma unroll
    for (auto& columns : sum[i]) {
#pragma unroll
      for (float& each : columns) each = NAN;
    }
  }
}

// One dimension of blocks: batch, group, tile of rows, split.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) paged_window_attention_few_kernel(
    PagedArguments<typename Tile::T> a, AttentionParts parts) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  let_next_kernel_begin();
  PagedRows<typename Tile::T> const rows(a, Tile::kRows, parts.count, blockIdx.x);
  PagedStream<Tile> attention(a, rows, parts.count, memory);
  attention.walk();
  if (!rows.fits()) spoil(attention.softmax, attention.sum);
  attention.finish(parts, memory);
#else
  __trap();
#endif
}

}  // namespace bridge
