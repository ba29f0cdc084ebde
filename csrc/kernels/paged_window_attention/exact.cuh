// Attention over a paged cache of float32, and of whatever the tensor cores do not take: a warp computes one query.
#pragma once

#include "kernels/paged_window_attention/arguments.cuh"
#include "kernels/window_attention/exact.cuh"

namespace bridge {

template <class T>
__global__ void __launch_bounds__(32 * kExactWarps) paged_window_attention_exact_kernel(PagedArguments<T> a) {
  compute_exactly<T>(a, [&](auto& work, KeyInterval seen, int batch, int, int) {
    for (int first = seen.begin; first < seen.end; first += 32) work.add(first, seen.end);
    if (!a.fits(batch)) work.total = NAN;
  });
}

}  // namespace bridge
