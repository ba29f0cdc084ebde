// What a block of attention of few rows has in shared memory.
#pragma once

#include "kernels/window_attention/wgmma_tile.cuh"

namespace bridge {

// kRowTiles: of 8 rows. kKeysOfWarp: that a warp multiplies at once. kStages: of these, of a warp in shared memory.
// kResidents: blocks that fit a multiprocessor.
template <class T_, int kHeadDim_, int kRowTiles_, int kWarps_, int kKeysOfWarp_, int kStages_, int kResidents_>
struct StreamTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kRowTiles = kRowTiles_, kWarps = kWarps_, kKeysOfWarp = kKeysOfWarp_;
  static constexpr int kStages = kStages_, kResidents = kResidents_, kThreads = 32 * kWarps;
  static constexpr int kRows = 8 * kRowTiles, kKeys = kWarps * kKeysOfWarp;
  // In shared memory keys are as wgmma's, rows of 128 bytes for each 64 channels.
  static constexpr int kParts = kHeadDim * sizeof(T) / kMapRowBytes, kPartBytes = kKeysOfWarp * kMapRowBytes;
  static_assert(kHeadDim % 64 == 0 && kKeysOfWarp % 16 == 0);
};

template <class Tile>
struct StreamShared {
  alignas(1024) unsigned char ring[Tile::kWarps][Tile::kStages][2][Tile::kParts * Tile::kPartBytes];  // keys, values
  SharedBarrier full[Tile::kWarps][Tile::kStages][2];
};

// What takes the ring's place once all keys have been read: sums of values and states of each row.
template <class Tile>
struct StreamResults {
  static constexpr int kWidth = Tile::kHeadDim + 4;  // rows of a warp's stores lie in different banks
  struct Part {
    float sums[Tile::kRows][kWidth];
    float2 states[Tile::kRows];  // largest logit, total of the weights
  };
  Part warps[Tile::kWarps], block;
};

}  // namespace bridge
