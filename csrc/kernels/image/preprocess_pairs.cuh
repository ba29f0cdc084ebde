// The kernel of preprocess for images that are resized bilinearly: a thread computes two pixels side by side. Of packed
// pixels it reads two neighbours, which are six bytes, as aligned words.
#pragma once

#include "kernels/image/preprocess_readers.cuh"

namespace bridge {

constexpr int kPairColumns = 32, kPairRows = 8;  // threads of a block

template <class T>
__device__ void store_pair(T* at, float first, float second) {
  Vec<T, 2> const pair{{from_float<T>(first), from_float<T>(second)}};
  if constexpr (sizeof(T) == 2) {
    __stcs(reinterpret_cast<unsigned*>(at), *reinterpret_cast<unsigned const*>(&pair));
  } else {
    __stcs(reinterpret_cast<float2*>(at), *reinterpret_cast<float2 const*>(&pair));
  }
}

// Two results side by side. paired: both are within the result, and lie where a pair may.
template <class T>
__device__ void write_pair(PreprocessArguments const& a, Canvas<T> canvas, int64_t n, int y, int x, bool paired,
                           Levels const (&levels)[2]) {
  if (!paired) {
    write(a, canvas, n, y, x, levels[0]);
    if (x + 1 < a.out_w) write(a, canvas, n, y, x + 1, levels[1]);
  } else if (!a.channels_last || a.results == 1) {
#pragma unroll
    for (int i = 0; i < kMostChannels; ++i) {
      if (i < a.results) store_pair(canvas.data + canvas.place(a, n, y, x, i), levels[0].value[i], levels[1].value[i]);
    }
  } else {
    T* const at = canvas.data + canvas.place(a, n, y, x, 0);
    store_pair(at, levels[0].value[0], levels[0].value[1]);
    store_pair(at + 2, levels[0].value[2], levels[1].value[0]);
    store_pair(at + 4, levels[1].value[1], levels[1].value[2]);
  }
}

// Two results side by side, of which the resized image may have one, both or none. Edge: how one alone is read.
template <class T, class Around, class Edge>
__device__ void pair_of_results(PreprocessArguments const& a, Canvas<T> canvas, int64_t n, Placement const& p, int y,
                                int x, bool paired) {
  bool const inside = p.right && y >= p.row && y - p.row < p.high;
  RowPlace const row = inside ? RowPlace::of(a, p, y - p.row) : RowPlace{};
  int const column = x - p.column;
  bool const both = inside && column >= 0 && column + 1 < p.wide && Around::takes(p);
  Levels levels[2] = {around(a, p.right), around(a, p.right)};
  if (both) {  // all is read before anything is computed
    Around const first = Around::read(a, n, p, row, column), second = Around::read(a, n, p, row, column + 1);
    levels[0] = finished(a, first.sample(row)), levels[1] = finished(a, second.sample(row));
  } else if (inside) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (column + i < 0 || column + i >= p.wide) continue;
      levels[i] = finished(a, Edge::read(a, n, p, row, column + i).sample(row));
    }
  }
  write_pair(a, canvas, n, y, x, paired, levels);
}

template <class T, class Around, class Edge = Around>
__global__ void __launch_bounds__(kPairColumns* kPairRows) preprocess_pairs_kernel(PreprocessArguments a,
                                                                                   Canvas<T> canvas, bool paired) {
  __shared__ Placement box;
  int const x = 2 * (static_cast<int>(blockIdx.x) * kPairColumns + static_cast<int>(threadIdx.x));
  int const y = static_cast<int>(blockIdx.y) * kPairRows + static_cast<int>(threadIdx.y);
  for (int64_t n = blockIdx.z; n < a.batch; n += gridDim.z) {
    Placement const& p = block_placement(a, n, box);
    if (x < a.out_w && y < a.out_h) pair_of_results<T, Around, Edge>(a, canvas, n, p, y, x, paired);
  }
}

inline bool takes_pairs(PreprocessArguments const& a) { return a.filter == Filter::kBilinear && !a.antialias; }

template <class T>
using PairsKernel = void (*)(PreprocessArguments, Canvas<T>, bool);

template <class T>
PairsKernel<T> pairs_kernel(PreprocessArguments const& a) {
  if (a.colours == Colours::kYuv) return preprocess_pairs_kernel<T, YuvAround>;
  if (!is_packed(a)) return preprocess_pairs_kernel<T, BytesAround>;
  return whole_words(a) ? preprocess_pairs_kernel<T, PackedAround<true>, BytesAround>
                        : preprocess_pairs_kernel<T, PackedAround<false>, BytesAround>;
}

// Blocks for the result, each of that many rows.
inline dim3 pairs_grid(PreprocessArguments const& a, int rows) {
  return {static_cast<unsigned>(ceil_divide(a.out_w, 2 * kPairColumns)),
          static_cast<unsigned>(ceil_divide(a.out_h, rows)),
          static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY)};
}

template <class T>
bool may_pair(PreprocessArguments const& a, Canvas<T> canvas) {
  return a.out_w % 2 == 0 && aligned(canvas.data, 2 * sizeof(T));
}

template <class T>
cudaError_t launch_preprocess_pairs(PreprocessArguments const& a, Canvas<T> canvas, cudaStream_t stream) {
  PairsKernel<T> const kernel = pairs_kernel<T>(a);
  dim3 const grid = pairs_grid(a, kPairRows);
  kernel<<<grid, dim3(kPairColumns, kPairRows), 0, stream>>>(a, canvas, may_pair(a, canvas));
  return cudaGetLastError();
}

}  // namespace bridge
