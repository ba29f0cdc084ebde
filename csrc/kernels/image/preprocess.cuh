// Chooses a kernel of preprocess and launches it.
#pragma once

#include "kernels/image/preprocess_direct.cuh"
#include "kernels/image/preprocess_pairs.cuh"

namespace bridge {

// Ways to compute it, as tactics: numbers that stay.
constexpr int kPreprocessDirect = 1, kPreprocessPairs = 2;

inline int preprocess_way(PreprocessArguments const& a, int tactic) {
  bool const pairs = takes_pairs(a) && tactic != kPreprocessDirect;
  return pairs ? kPreprocessPairs : kPreprocessDirect;
}

template <class T>
cudaError_t launch_preprocess(PreprocessArguments const& a, T* y, int tactic, cudaStream_t stream) {
  Canvas<T> const canvas{y};
  return preprocess_way(a, tactic) == kPreprocessPairs ? launch_preprocess_pairs(a, canvas, stream)
                                                       : launch_preprocess_direct(a, canvas, stream);
}

}  // namespace bridge
