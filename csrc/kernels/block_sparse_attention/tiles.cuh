// Which keys a block of threads visits. Keys are counted in pieces of 16, of which a block of keys has a whole number:
// tiles are made of the pieces that the row of the mask has, whatever the size of blocks.
#pragma once

#include "kernels/block_sparse_attention/rows.cuh"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

// The pieces of some thousand keys, in shared memory.
template <int kThreads>
struct PieceList {
  static constexpr int kWarps = kThreads / 32, kSteps = 16, kPieces = kThreads * kSteps;
  static_assert(kPieces <= USHRT_MAX + 1);

  uint16_t piece[kPieces];  // of those from the first on
  int counts[kWarps];       // that a warp found

  // Lists those of the pieces first to min(first + kPieces, end) - 1 that the mask has, and returns their number. Each
  // warp looks at neighbouring ones, 32 at a time.
  __device__ int fill(MaskRow const& mask, int first, int end, int pieces_of_block) {
    int const lane = threadIdx.x % 32, warp = threadIdx.x / 32, of_warp = warp * 32 * kSteps;
    uint32_t mine = 0;  // bit i: this thread's piece of step i
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      int const each = first + of_warp + 32 * i + lane;
      if (each < end && mask.has(each / pieces_of_block)) mine |= 1u << i;
    }
    int count = 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) count += __popc(__ballot_sync(~0u, mine >> i & 1));
    __syncthreads();  // the list before has been read
    if (lane == 0) counts[warp] = count;
    __syncthreads();
    int place = 0, all = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      place += i < warp ? counts[i] : 0;
      all += counts[i];
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t const found = __ballot_sync(~0u, mine >> i & 1);
      if (mine >> i & 1) piece[place + __popc(found & ((1u << lane) - 1))] = of_warp + 32 * i + lane;
      place += __popc(found);
    }
    __syncthreads();
    return all;
  }
};

// Tiles of the pieces of a list, kKeys / 16 each.
template <class Tile>
struct ListedTiles {
  using T = typename Tile::T;
  static constexpr int kPieces = Tile::kKeys / kPieceKeys;
  static constexpr int kAbsent = INT_MAX - kPieceKeys;  // behind all keys

  uint16_t const* list;
  int count, first;  // pieces; the key that those of the list are counted from
  KeyInterval keys;  // that any row sees
  int begin = 0, end;

  __device__ ListedTiles(uint16_t const* list, int count, int first, KeyInterval keys)
      : list(list), count(count), first(first), keys(keys), end((count + kPieces - 1) / kPieces) {}

  // The first key of a piece.
  __device__ int key(int index) const { return index < count ? first + kPieceKeys * list[index] : kAbsent; }

  __device__ int position(int tile, int place) const {
    return key(tile * kPieces + place / kPieceKeys) + place % kPieceKeys;
  }

  // The pieces of a warp's share, in the order of their keys; as KeyRun.
  struct Part {
    ListedTiles const& tiles;
    int index, offset;

    __device__ int begin() const { return tiles.key(index); }
    __device__ int end() const { return tiles.key(index + Tile::kKeysOfWarp / kPieceKeys - 1) + kPieceKeys; }
    __device__ Part after(int n) const { return {tiles, index, offset + n}; }
    __device__ int column(int i) const { return tiles.key(index + i / 2) + i % 2 * 8 + offset; }
  };
  __device__ Part part(int tile, int warp_key) const { return {*this, tile * kPieces + warp_key / kPieceKeys, 0}; }

  // Where a thread's keys lie. What no row sees is not read: it counts as zeros.
  template <int>
  struct Source {
    ListedTiles const& tiles;
    int index;
    T const* base;
    int64_t step;
    int place = 0;

    template <class Rows>
    __device__ Source(ListedTiles const& tiles, int tile, AttentionTensor<T const> const& from, Rows const& rows, int,
                      int channel)
        : tiles(tiles),
          index(tile * kPieces),
          base(from.row(rows.batch, rows.group, 0) + channel),
          step(from.strides.seq) {}
    __device__ bool has(int key) {
      place = tiles.key(index + key / kPieceKeys) + key % kPieceKeys;
      return tiles.keys.has(place);
    }
    __device__ T const* at(int) const { return base + place * step; }
    __device__ void advance() {}
  };
};

// Has `attention` walk the keys of a block's share that the mask has.
template <class Tile, class Rows, class Attention>
__device__ void walk_listed(BlockSparseArguments<typename Tile::T> const& a, Rows const& rows, int splits,
                            Attention& attention) {
  using List = PieceList<Tile::kThreads>;
  __shared__ List list;
  KeyInterval const keys = attention.keys;
  KeyTiles const pieces({keys.begin / kPieceKeys * kPieceKeys, keys.end}, kPieceKeys, rows.split, splits);
  int const first_piece = keys.begin / kPieceKeys + pieces.begin, end = keys.begin / kPieceKeys + pieces.end;
  MaskRow const mask(a, rows.batch, rows.first_head, rows.query_block);
  int const pieces_of_block = a.key_block / kPieceKeys;
  for (int first = first_piece; first < end; first += List::kPieces) {
    int const count = list.fill(mask, first, end, pieces_of_block);
    attention.walk(ListedTiles<Tile>(list.piece, count, first * kPieceKeys, keys));
  }
}

}  // namespace bridge
