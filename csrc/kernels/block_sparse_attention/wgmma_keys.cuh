// Which keys a block of threads visits, of block-sparse attention by wgmma: tiles of boxes of keys that the mask has.
#pragma once

#include <climits>

#include "kernels/block_sparse_attention/rows.cuh"
#include "kernels/block_sparse_attention/wgmma_tile.cuh"

namespace bridge {

constexpr int kAbsentKey = INT_MAX - 256;  // behind all keys, and so is a tile that begins there

#ifdef BRIDGE_WGMMA

// The tiles of a row of the mask: its blocks are looked up 32 at a time, a lane each, and cut into pieces that boxes of
// `piece` keys hold. A tile lacks pieces where there are no more.
template <class Tile>
struct MaskKeys {
  MaskRow mask;
  KeyInterval keys;                    // that any row sees
  int key_block, piece;                // keys of one
  int begin = 0, end = 0, key, limit;  // of this split; the next piece, and where its block ends
  int base, last;                      // the first block that has been looked up, and the last one of all
  uint32_t found = 0;                  // bit i: block base + i is to come
  bool ahead = false;                  // whether this lane's one of the next 32 blocks is in the mask

  __device__ MaskKeys(SparseRows<typename Tile::T> const& rows, int splits, int piece)
      : mask(rows.a, rows.batch, rows.first_head, rows.query_block),
        keys(covering_of_warp(rows, 0, Tile::kRows)),
        key_block(rows.a.key_block),
        piece(piece) {
    int const first = keys.begin / piece * piece;
    KeyTiles const pieces({first, keys.end}, piece, rows.split, splits);
    if (pieces.begin < pieces.end) begin = first + pieces.begin * piece, end = first + pieces.end * piece;
    base = begin / key_block - 32, last = begin < end ? (end - 1) / key_block : -1;
    key = limit = 0;
    look();
    settle();
  }

  __device__ bool more() const { return key < limit; }
  // The first key of this lane's part of the next tile.
  __device__ int next() {
    int const offset = threadIdx.x % 32 * kPieceKeys;
    int mine = kAbsentKey;
    for (int at = 0; at < Tile::kKeys && more(); at += piece) {
      if (offset >= at && offset < at + piece) mine = key + offset - at;
      key += piece;
      settle();
    }
    return mine;
  }

 private:
  __device__ void look() {
    int const block = base + 32 + threadIdx.x % 32;
    ahead = block <= last && mask.has(block);
  }
  // Goes to the next block of the mask where the one before has no more pieces.
  __device__ void settle() {
    if (more()) return;
    while (found == 0) {
      if (base + 32 > last) return;
      base += 32;
      found = __ballot_sync(~0u, ahead);
      look();
    }
    int const block = base + __ffs(found) - 1;
    found &= found - 1;
    key = max(block * key_block, begin);
    limit = static_cast<int>(least(int64_t(block + 1) * key_block, end));
  }
};

// The keys of a tile's columns; as KeyRun.
template <class Tile>
struct SparseColumns {
  int const* first;  // of each piece
  int offset = 0;

  __device__ int begin() const { return first[0]; }
  __device__ int end() const { return first[kTilePieces<Tile> - 1] + kPieceKeys; }
  __device__ SparseColumns after(int n) const { return {first, offset + n}; }
  __device__ int column(int i) const { return first[i / 2] + i % 2 * 8 + offset; }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
