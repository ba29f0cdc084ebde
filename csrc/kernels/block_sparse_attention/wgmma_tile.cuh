// What block-sparse attention by wgmma has in shared memory, and the tensor maps by which it gets there.
#pragma once

#include "kernels/block_sparse_attention/arguments.cuh"
#include "kernels/common/attention.cuh"
#include "kernels/common/tensor_map.cuh"

namespace bridge {

// kGroups: warpgroups that multiply, 64 rows each. kKeys: of a tile. kStages: tiles of keys and values in shared
// memory. kQueryTiles: tiles of queries there. kResidents: blocks that fit a multiprocessor.
template <class T_, int kHeadDim_, int kGroups_, int kKeys_, int kStages_, int kQueryTiles_, int kResidents_>
struct SparseTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kGroups = kGroups_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kQueryTiles = kQueryTiles_, kResidents = kResidents_;
  static constexpr int kWarpgroup = 128, kConsumers = kGroups * kWarpgroup, kThreads = kConsumers + 32;
  static constexpr int kRegisters = 65536 / (kThreads * kResidents) / 8 * 8;  // of a thread
  static constexpr int kRows = 64 * kGroups, kPieces = kKeys / kPieceKeys;
  static constexpr int kRowBytes = kMapRowBytes, kParts = kHeadDim * sizeof(T) / kRowBytes;
  static constexpr int kQueryBytes = kParts * kRows * kRowBytes, kKeyBytes = kParts * kKeys * kRowBytes;

  // Rows of a tile, where so many heads are packed: whole queries.
  __host__ __device__ static constexpr int rows(int packed) { return kRows / packed * packed; }
};

constexpr int kSparseWgmmaHeadDim = 64;  // the most channels of a head that the tiles hold

// For blocks of queries that have more than 64 rows, and for others.
template <class T>
using ManySparseRows = SparseTile<T, kSparseWgmmaHeadDim, 2, 64, 4, 2, 2>;
template <class T>
using SomeSparseRows = SparseTile<T, kSparseWgmmaHeadDim, 1, 64, 4, 1, 3>;

// Of a tile of keys.
struct SparseRecord {
  int key[128 / kPieceKeys];  // the first of each piece, in ascending order
  KeyInterval keys;           // that any row of the item of work sees
  bool last;                  // of the item
  bool cut;                   // it has values that no row sees
};

// In shared memory a tile is one of 128-byte rows for each 64 channels, permuted as wgmma wants it.
template <class Tile>
struct SparseShared {
  static constexpr int kStages = Tile::kStages, kQueryTiles = Tile::kQueryTiles;
  alignas(1024) unsigned char q[kQueryTiles][Tile::kQueryBytes];
  alignas(1024) unsigned char tile[kStages][2][Tile::kKeyBytes];  // keys, values
  SparseRecord records[2 * kStages];                              // of a tile, until its values have been used
  // full: what is there has arrived. empty: it may be overwritten.
  SharedBarrier full[kStages][2], empty[kStages][2], q_full[kQueryTiles], q_empty[kQueryTiles];

  __device__ void init() {
    for (int i = 0; i < 2 * kStages; ++i) {
      full[i / 2][i % 2].init(1);
      empty[i / 2][i % 2].init(Tile::kConsumers / 32);
    }
    for (int i = 0; i < kQueryTiles; ++i) q_full[i].init(1), q_empty[i].init(Tile::kConsumers / 32);
    publish_to_wgmma();
  }
  __device__ SparseRecord& record(int tile) { return records[tile % (2 * kStages)]; }
};

// piece: keys of a box, which lie side by side.
struct SparseMaps {
  CUtensorMap q, k, v;
  int piece;
};

// False where other kernels are to compute it.
template <class Tile>
bool make_sparse_maps(SparseMaps& maps, BlockSparseArguments<typename Tile::T> const& a, int piece) {
  int const packed = a.packed;
  if (a.keys == 0 || packed > Tile::kRows) return false;
  maps.piece = piece;
  AttentionStrides const& q = a.q.strides;
  MapDimension const queries[] = {{packed, q.head, packed},
                                  {a.queries, q.seq, Tile::kRows / packed},
                                  {a.heads / packed, q.head * packed, 1},
                                  {a.batch, q.batch, 1}};
  auto of_keys = [&](CUtensorMap& map, auto const& tensor) {
    AttentionStrides const& steps = tensor.strides;
    MapDimension const keys[] = {{a.keys, steps.seq, piece}, {a.groups, steps.head, 1}, {a.batch, steps.batch, 1}};
    return make_tensor_map(map, tensor.data, a.head_dim, keys);
  };
  return make_tensor_map(maps.q, a.q.data, a.head_dim, queries) && of_keys(maps.k, a.k) && of_keys(maps.v, a.v);
}

}  // namespace bridge
