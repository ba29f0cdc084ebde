// What block-sparse attention by wgmma has in shared memory.
#pragma once

#include "kernels/block_sparse_attention/arguments.cuh"
#include "kernels/window_attention/wgmma_tile.cuh"

namespace bridge {

// Of a tile of keys.
struct SparseRecord {
  int key[128 / kPieceKeys];  // the first of each piece, in ascending order
  KeyInterval keys;           // that any row of the item of work sees
  bool last;                  // of the item
  bool cut;                   // it has values that no row sees
};

template <class Tile>
constexpr int kTilePieces = Tile::kKeys / kPieceKeys;

template <class Tile>
using SparseShared = WgmmaShared<Tile, SparseRecord, 2 * Tile::kStages>;  // of a tile, until its values have been used

// box_keys: of a box, which lie side by side.
struct SparseItems {
  int box_keys, count;
};

}  // namespace bridge
