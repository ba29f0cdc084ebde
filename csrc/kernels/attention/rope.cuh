// Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864) of queries and keys in one launch: which way
// computes it, and with which grid.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "kernels/attention/rope_part.cuh"

namespace bridge {

// A block covers what lies together in memory: heads of a token, or tokens of a head; in as many threads as a way
// wants, or twice as many where a token has so many heads.
template <class Way, class T, class Table>
struct RopeGrid {
  static constexpr int64_t kMaxGrid = 65535, kMaxDepth = 64, kMost = Way::kMost;
  int64_t slots, units, x, y, z;

  explicit RopeGrid(RopeArguments<T, Table> const& a)
      : slots(ceil_divide(a.heads, Way::kHeads)), units(RopeUnits<Way>(a.head_dim, a.rotary_dim).count) {
    x = std::min(std::max<int64_t>(units, 1), int64_t(kRopeThreads) / 2);
    y = std::min(slots, std::max<int64_t>(Way::kMostOfToken / x, 1));
    z = std::min({int64_t(a.seq), kMaxDepth, std::max<int64_t>(kMost / (x * y), 1)});
    if (!a.heads_first) return;
    z = std::min({int64_t(a.seq), kMaxDepth, std::max<int64_t>(kMost / x, 1)});
    y = std::min(slots, std::max<int64_t>(kMost / (x * z), 1));
  }
  bool covers(RopeArguments<T, Table> const& a) const {
    return units <= x && ceil_divide(slots, y) <= kMaxGrid && a.batch <= kMaxGrid;
  }
  cudaError_t launch(RopeArguments<T, Table> const& a, cudaStream_t stream) const {
    dim3 const block(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
    dim3 const grid(static_cast<unsigned>(ceil_divide(a.seq, z)),
                    static_cast<unsigned>(std::min(ceil_divide(slots, y), kMaxGrid)),
                    static_cast<unsigned>(std::min(a.batch, kMaxGrid)));
    return launch_early<rope_kernel<Way, T, Table>>(grid, block, stream, a);
  }
};

// Whether there are few tokens, and offsets of 32 bits reach all that a kernel reads and writes.
template <class T, class Table>
bool rope_is_small(RopeArguments<T, Table> const& a) {
  constexpr int64_t kManyElements = int64_t(1) << 22;
  auto reaches = [&](RopeStrides const& strides, int64_t heads) {
    int64_t const last = (a.batch - 1) * strides.batch + int64_t(a.seq - 1) * strides.seq + (heads - 1) * strides.head;
    return last + a.head_dim <= std::numeric_limits<uint32_t>::max();
  };
  for (RopeTensor<T> const& tensor : a.tensor) {
    int64_t const heads = &tensor == a.tensor ? a.heads_q : a.heads - a.heads_q;
    if (!reaches(tensor.in_strides, heads) || !reaches(tensor.out_strides, heads)) return false;
  }
  int64_t const tables = a.batch * a.table_step + a.table_rows * a.table_width;
  return tables <= std::numeric_limits<uint32_t>::max() && a.batch * a.seq * a.heads * a.head_dim < kManyElements;
}

template <RopeScale kScale, int kPackets, class T, class Table>
cudaError_t launch_rope_as(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  return a.table_width != uint32_t(a.rotary_dim) / 2
             ? RopeGrid<RopeWay<T, kScale, kPackets, true>, T, Table>(a).launch(a, stream)
             : RopeGrid<RopeWay<T, kScale, kPackets, false>, T, Table>(a).launch(a, stream);
}

template <RopeScale kScale, int kPackets, class T, class Table>
bool rope_covers(RopeArguments<T, Table> const& a) {
  return RopeGrid<RopeWay<T, kScale, kPackets, false>, T, Table>(a).covers(a);
}

// Whether heads, and all tables, lie in whole accesses of so many bytes.
template <class T, class Table>
bool rope_heads_take(RopeArguments<T, Table> const& a, size_t bytes) {
  int const lanes = static_cast<int>(bytes / sizeof(T));
  bool takes = a.head_dim % lanes == 0 && aligned(a.cos) && aligned(a.sin);
  for (RopeTensor<T> const& tensor : a.tensor) {
    RopeStrides const& strides = tensor.in_strides;
    takes = takes && aligned(tensor.in, bytes) && aligned(tensor.out, bytes) && strides.batch % lanes == 0 &&
            strides.seq % lanes == 0 && strides.head % lanes == 0;
  }
  return takes;
}

// Whether all parts of a head do, too.
template <class T, class Table>
bool rope_takes(RopeArguments<T, Table> const& a, bool interleaved, size_t bytes) {
  int const rotated = interleaved ? a.rotary_dim : a.rotary_dim / 2;
  return rotated % (bytes / sizeof(T)) == 0 && rope_heads_take(a, bytes);
}

template <int kTogether, int kHeads, bool kGathers, class T, class Table>
std::optional<cudaError_t> launch_rope_part_as(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  auto const launch = [&](auto grid) { return grid.covers(a) ? std::optional(grid.launch(a, stream)) : std::nullopt; };
  return a.table_width != uint32_t(a.rotary_dim) / 2
             ? launch(RopePartGrid<RopePartWay<T, kTogether, kHeads, true, kGathers>, T, Table>(a))
             : launch(RopePartGrid<RopePartWay<T, kTogether, kHeads, false, kGathers>, T, Table>(a));
}

// The kernel for parts of heads, where it takes them.
template <int kHeads, bool kGathers, class T, class Table>
std::optional<cudaError_t> launch_rope_part(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  constexpr int kLanes = kAccessBytes / sizeof(T);
  int const half = a.rotary_dim / 2;
  if (half % kLanes == 0 || !rope_heads_take(a, kAccessBytes)) return std::nullopt;
  if constexpr (kLanes > 4) {
    if (half % 4 == 0) return launch_rope_part_as<4, kHeads, kGathers>(a, stream);
  }
  return half % 2 == 0 ? launch_rope_part_as<2, kHeads, kGathers>(a, stream) : std::nullopt;
}

template <bool kGathers, class T, class Table>
std::optional<cudaError_t> launch_rope_part_of(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  if (a.rotary_dim == a.head_dim) return std::nullopt;
  return rope_is_small(a) ? launch_rope_part<1, kGathers>(a, stream) : launch_rope_part<2, kGathers>(a, stream);
}

template <int kPackets, class T, class Table>
cudaError_t launch_rope_pairs(RopeArguments<T, Table> const& a, cudaStream_t stream) {
  bool const whole = rope_takes(a, kPackets == 1, kAccessBytes),
             halves = rope_takes(a, kPackets == 1, kAccessBytes / 2);
  if constexpr (kPackets == 2) {
    auto const launched = a.position_ids ? launch_rope_part_of<true>(a, stream) : launch_rope_part_of<false>(a, stream);
    if (launched) return *launched;
  }
  if (halves && rope_is_small(a) && rope_covers<RopeScale::kFew, kPackets>(a)) {
    return a.position_ids ? launch_rope_as<RopeScale::kFewGathered, kPackets>(a, stream)
                          : launch_rope_as<RopeScale::kFew, kPackets>(a, stream);
  }
  if (whole && rope_covers<RopeScale::kMany, kPackets>(a)) return launch_rope_as<RopeScale::kMany, kPackets>(a, stream);
  return halves && rope_covers<RopeScale::kManyHalved, kPackets>(a)
             ? launch_rope_as<RopeScale::kManyHalved, kPackets>(a, stream)
             : launch_rope_as<RopeScale::kAny, kPackets>(a, stream);
}

template <class T, class Table>
cudaError_t launch_rope(RopeArguments<T, Table> const& a, bool interleaved, cudaStream_t stream) {
  if (a.batch == 0 || a.seq == 0 || a.head_dim == 0 || a.heads == 0) return cudaSuccess;
  return interleaved ? launch_rope_pairs<1>(a, stream) : launch_rope_pairs<2>(a, stream);
}

}  // namespace bridge
