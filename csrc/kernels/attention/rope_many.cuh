// The kernel of rope for tokens that fill a GPU: blocks that run together read and write what lies together, since
// memory is fastest where it is read and written in long runs.
#pragma once

#include <algorithm>

#include "kernels/attention/rope_kernel.cuh"

namespace bridge {

// Tiles of a batch element: of tokens, of heads, and those of heads that are of q alone. A block computes a tile of
// both.
struct RopeTiles {
  uint32_t tokens, heads, heads_q;
};

// Blocks come in the order of results in memory: where heads come first, tokens of some heads; else heads of some
// tokens, all of q and then all of k.
struct RopeTile {
  uint32_t tokens, heads;

  __device__ RopeTile(RopeTiles const& tiles, bool heads_first, uint32_t block) {
    uint32_t const of_q = tiles.heads_q * tiles.tokens;
    bool const in_q = block < of_q;
    uint32_t const heads_of = in_q ? tiles.heads_q : tiles.heads - tiles.heads_q,
                   count = heads_first ? tiles.tokens : heads_of;
    uint32_t const place = heads_first || in_q ? block : block - of_q, outer = place / count, inner = place % count;
    tokens = heads_first ? inner : outer;
    heads = heads_first ? outer : inner + (in_q ? 0 : tiles.heads_q);
  }
};

// Block: x over units, y over heads, z over tokens. Grid: x over tiles, z over the batch.
template <class Way, class T, class Table>
__global__ void __launch_bounds__(kRopeThreads) rope_many_kernel(RopeArguments<T, Table> a, RopeTiles tiles) {
  wait_for_kernel_before();
  let_next_kernel_begin();  // then: blocks of two calls, of which one waits, share multiprocessors badly
  RopeTile const tile(tiles, a.heads_first, blockIdx.x);
  int const step = blockDim.y, first_head = tile.heads * Way::kHeads * blockDim.y + threadIdx.y;
  uint32_t const s = tile.tokens * blockDim.z + threadIdx.z;
  if (s >= a.seq || first_head >= a.heads) return;
  rope_unit<Way>(a, blockIdx.z, s, first_head, step, threadIdx.x, RopeUnits<Way>(a.head_dim, a.rotary_dim));
}

// A block of as many tokens as it has room for, and of more heads than a thread's only where tokens are few.
template <class Way, class T, class Table>
struct RopeManyGrid {
  static constexpr int64_t kMost = 128, kMaxDepth = 64, kMaxBatch = 65535;
  int64_t units, x, y, z, blocks;
  RopeTiles tiles;

  explicit RopeManyGrid(RopeArguments<T, Table> const& a) : units(RopeUnits<Way>(a.head_dim, a.rotary_dim).count) {
    x = std::clamp<int64_t>(units, 1, kRopeThreads / 2);
    for (z = kMaxDepth; z > 1 && x * z > kMost;) z /= 2;
    z = std::min<int64_t>(z, a.seq);
    int64_t const slots = ceil_divide(a.heads, Way::kHeads), room = std::max<int64_t>(kMost / (x * z), 1);
    y = ceil_divide(slots, ceil_divide(slots, room));  // all blocks alike
    int64_t const tokens = ceil_divide(a.seq, z), heads = ceil_divide(slots, y);
    blocks = tokens * heads;
    tiles = {uint32_t(tokens), uint32_t(heads), uint32_t(a.heads_q / (Way::kHeads * y))};
  }
  bool covers(RopeArguments<T, Table> const& a) const {
    return units <= x && blocks <= kMaxGridX && a.batch <= kMaxBatch;
  }
  cudaError_t launch(RopeArguments<T, Table> const& a, cudaStream_t stream) const {
    dim3 const block(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    dim3 const grid(static_cast<unsigned>(blocks), 1, static_cast<unsigned>(a.batch));
    constexpr auto kKernel = rope_many_kernel<Way, T, Table>;
    return launch_overlapping(kKernel, grid, block, 0, stream, waits_for_kernel_before<kKernel>(), a, tiles);
  }
};

}  // namespace bridge
