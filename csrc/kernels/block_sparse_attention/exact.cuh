// Block-sparse attention where blocks of keys are no whole number of pieces: a warp computes one query.
#pragma once

#include "kernels/block_sparse_attention/arguments.cuh"
#include "kernels/window_attention/exact.cuh"

namespace bridge {

// Calls visit(first key, end) for the keys of each block that the mask has, as far as the query sees them.
template <class T, class Visit>
__device__ void each_visited_block(BlockSparseArguments<T> const& a, MaskRow const& mask, KeyInterval seen,
                                   Visit visit) {
  if (seen.empty()) return;
  int const last = (seen.end - 1) / a.key_block;
  for (int block = seen.begin / a.key_block; block <= last; block += 32) {
    int const mine = block + threadIdx.x % 32;
    uint32_t found = __ballot_sync(~0u, mine <= last && mask.has(mine));
    for (; found != 0; found &= found - 1) {
      int64_t const first = int64_t(block + __ffs(found) - 1) * a.key_block;
      visit(static_cast<int>(most(first, seen.begin)), static_cast<int>(least(first + a.key_block, seen.end)));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(32 * kExactWarps) block_sparse_attention_exact_kernel(BlockSparseArguments<T> a) {
  compute_exactly<T>(a, [&](auto& work, KeyInterval seen, int batch, int head, int query) {
    MaskRow const mask(a, batch, head, query / a.query_block);
    each_visited_block(a, mask, seen, [&](int begin, int end) {
      for (int first = begin; first < end; first += 32) work.add(first, end);
    });
  });
}

}  // namespace bridge
