// Chooses a kernel of preprocess and launches it.
#pragma once

#include <vector>

#include "kernels/image/preprocess_choice.cuh"
#include "kernels/image/preprocess_direct.cuh"
#include "kernels/image/preprocess_packed.cuh"
#include "kernels/image/preprocess_pairs.cuh"
#include "kernels/image/preprocess_tiles.cuh"

namespace bridge {

// Ways to compute it, as tactics: numbers that stay.
constexpr int kPreprocessDirect = 1, kPreprocessPairs = 2, kPreprocessTiles = 3, kPreprocessPacked = 4,
              kPreprocessStream = 5;

// Those that compute a call, the one that it takes by itself first.
inline std::vector<int> preprocess_ways(PreprocessArguments const& a, Device const& device) {
  std::vector<int> ways;
  bool const streams = takes_stream(a, device), sooner = streams && streams_sooner(a, device);
  if (sooner) ways.push_back(kPreprocessStream);
  if (takes_packed(a)) ways.push_back(kPreprocessPacked);
  if (streams && !sooner) ways.push_back(kPreprocessStream);
  if (takes_pairs(a)) ways.push_back(kPreprocessPairs);
  if (takes_tiles(a)) ways.push_back(kPreprocessTiles);
  ways.push_back(kPreprocessDirect);
  return ways;
}

inline int preprocess_way(PreprocessArguments const& a, int tactic, Device const& device) {
  std::vector<int> const ways = preprocess_ways(a, device);
  for (int way : ways) {
    if (way == tactic) return way;
  }
  return ways.front();
}

template <class T>
cudaError_t launch_preprocess(PreprocessArguments const& a, T* y, int tactic, Device const& device,
                              cudaStream_t stream) {
  Canvas<T> const canvas{y};
  switch (preprocess_way(a, tactic, device)) {
    case kPreprocessStream:
      return launch_preprocess_stream(a, canvas, device, stream);
    case kPreprocessPacked:
      return launch_preprocess_packed(a, canvas, stream);
    case kPreprocessPairs:
      return launch_preprocess_pairs(a, canvas, stream);
    case kPreprocessTiles:
      return launch_preprocess_tiles(a, canvas, stream);
    default:
      return launch_preprocess_direct(a, canvas, stream);
  }
}

}  // namespace bridge
