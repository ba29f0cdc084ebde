// What attention by wgmma has in shared memory, and the tensor maps by which the tensor memory accelerator puts it
// there.
#pragma once

#include "kernels/common/attention.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/window_attention/rows.cuh"

namespace bridge {

// kGroups: warpgroups that multiply, 64 rows each; one more fetches. kKeys: of a tile. kStages: tiles of keys and
// values in shared memory. kQueryTiles: tiles of queries there. kResidents: blocks that fit a multiprocessor.
template <class T_, int kHeadDim_, int kGroups_, int kKeys_, int kStages_, int kQueryTiles_ = 2, int kResidents_ = 1>
struct WgmmaTile {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_, kGroups = kGroups_, kKeys = kKeys_, kStages = kStages_;
  static constexpr int kQueryTiles = kQueryTiles_, kResidents = kResidents_;
  static constexpr int kWarpgroup = 128, kConsumers = kGroups * kWarpgroup, kThreads = kConsumers + kWarpgroup;
  using Registers = WarpgroupRegisters<kGroups, kResidents>;
  // Whether products of a tile are under way while a warpgroup computes the weights of the tile after it.
  static constexpr bool kOverlaps = Registers::kComputing > 104;
  // Two warpgroups that have a multiprocessor for themselves start products alternately: one computes weights while the
  // other one's products are under way. Others go on by themselves, past the tiles of keys that none of their rows
  // sees.
  static constexpr bool kAlternates = kGroups == 2 && kResidents == 1;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kRowBytes = kMapRowBytes, kParts = (kHeadDim * sizeof(T) + kRowBytes - 1) / kRowBytes;
  static constexpr int kQueryBytes = kParts * kRows * kRowBytes, kKeyBytes = kParts * kKeys * kRowBytes;

  // Whole queries of a tile, each with the rows of `packed` heads.
  __host__ __device__ static constexpr int queries(int packed) { return kRows / packed; }
};

// In shared memory a tile is one of 128-byte rows for each 64 channels, permuted as wgmma wants it. kRecords of Record
// say more about the last items of work, or tiles of keys.
template <class Tile_, class Record, int kRecords>
struct WgmmaShared {
  using Tile = Tile_;
  static constexpr int kStages = Tile::kStages, kQueryTiles = Tile::kQueryTiles;
  alignas(1024) unsigned char q[kQueryTiles][Tile::kQueryBytes];
  alignas(1024) unsigned char tile[kStages][2][Tile::kKeyBytes];  // keys, values
  Record records[kRecords];
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
  __device__ Record& record(uint32_t number) { return records[number % kRecords]; }
};

struct AttentionMaps {
  CUtensorMap q, k, v;
};

// Of keys and values, in boxes of `box_keys`. False where other kernels are to compute it. promotion: 128 bytes where
// each key is read once, for as measured on an H200 on 2026-11-30, 256 reach 4.1 TB/s, and 128 4.5.
template <class T>
bool make_key_maps(AttentionMaps& maps, WindowAttentionArguments<T> const& a, int box_keys,
                   CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B) {
  if (a.keys == 0) return false;
  auto make = [&](CUtensorMap& map, auto const& tensor) {
    AttentionStrides const& steps = tensor.strides;
    MapDimension const keys[] = {{a.keys, steps.seq, box_keys}, {a.groups, steps.head, 1}, {a.batch, steps.batch, 1}};
    return make_tensor_map(map, tensor.data, a.head_dim, keys, promotion);
  };
  return make(maps.k, a.k) && make(maps.v, a.v);
}

// The same, and of queries. packed: heads, one after the other, that share a tile of them.
template <class Tile>
bool make_attention_maps(AttentionMaps& maps, WindowAttentionArguments<typename Tile::T> const& a, int packed,
                         int box_keys) {
  if (packed > Tile::kRows) return false;
  AttentionStrides const& q = a.q.strides;
  MapDimension const queries[] = {{packed, q.head, packed},
                                  {a.queries, q.seq, Tile::queries(packed)},
                                  {a.heads / packed, q.head * packed, 1},
                                  {a.batch, q.batch, 1}};
  return make_key_maps(maps, a, box_keys) && make_tensor_map(maps.q, a.q.data, a.head_dim, queries);
}

}  // namespace bridge
