// Columns of offset groups that fill a row of a tile: 8 threads of 16 bytes share a row.
#pragma once

#include "kernels/deform_columns/plan.cuh"
#include "kernels/deformable/deform_conv2d_launch.cuh"

namespace bridge {

constexpr int kSampleRowStep = kSampleThreads / kRowChunks, kSampleTogether = 2;  // rows of a thread: apart, at once
constexpr int kSampleRows = kSampleRowStep * kSampleTogether;                     // of a block

#ifdef BRIDGE_WGMMA

// Asks for 16 bytes of the four pixels around a sample, where they are inside the map.
template <class T>
__device__ void load_inside(Gathered<T>& row, char const* x, int pixel_bytes, int row_bytes,
                            SampleCorners<T> const& corners) {
  row.at = corners;
  char const* const upper = x + int64_t(corners.top_left) * pixel_bytes;
  char const* const lower = upper + row_bytes;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    auto const* const from = reinterpret_cast<uint4 const*>((j / 2 ? lower : upper) + (j % 2 ? pixel_bytes : 0));
    row.corner[j] = {0, 0, 0, 0};
    if (corners.inside >> j & 1) row.corner[j] = __ldg(from);
  }
}

// By some blocks: lays out the weights.
template <class T>
__device__ void pack_weights_beside(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* packed,
                                    unsigned threads) {
  unsigned const all = gridDim.x * gridDim.y * kSampleThreads;
  unsigned thread = (blockIdx.y * gridDim.x + blockIdx.x) * kSampleThreads + threadIdx.x;
#pragma unroll 1
  for (; thread < threads; thread += all) pack_weight(a, plan, packed, thread);
}

#endif  // BRIDGE_WGMMA

// Grid: x over parts of tiles of positions, y over runs of kDepth channels, z over parts of the taps. Where weights are
// to be laid out, by weight_threads threads, blocks of one more z do that, while others wait for the feature map.
template <class T>
__global__ void __launch_bounds__(kSampleThreads, 4) deform_columns_sample_kernel(DeformConv2dArguments<T> a,
                                                                                  DeformConv2dPlan plan,
                                                                                  PackedOperands<T> packed,
                                                                                  ColumnPass pass,
                                                                                  unsigned weight_threads) {
#ifdef BRIDGE_WGMMA
  let_next_kernel_begin();
  if (weight_threads > 0 && blockIdx.z == 0) return pack_weights_beside(a, plan, packed.weight, weight_threads);
  constexpr unsigned kParts = kColumnPositions / kSampleRows;
  unsigned const tile = blockIdx.x / kParts, run = blockIdx.y, runs_of_group = plan.segments * plan.chunks;
  int const group = static_cast<int>(run / runs_of_group), of_group = static_cast<int>(run % runs_of_group);
  unsigned const parts = plan.columns.tap_parts, part = blockIdx.z - (weight_threads > 0);
  int const first = static_cast<int>(part * plan.taps / parts);
  int const end = static_cast<int>((part + 1) * plan.taps / parts);
  int const row = static_cast<int>(blockIdx.x % kParts) * kSampleRows + threadIdx.x / kRowChunks;
  int const chunk = threadIdx.x % kRowChunks;
  ChunkSource const source(a, plan, packed, run, chunk);
  SampleCorners<T> const* corners =
      packed.corners + plan.corners_of(pass.first_tile + tile, group, of_group / plan.chunks, first) + row;
  int64_t const stage = (int64_t(group) * plan.columns.tiles + tile) * plan.stages() + of_group * plan.taps + first;
  auto* out =
      reinterpret_cast<uint4*>(packed.columns) + (stage * kColumnPositions + row) * kRowChunks + swizzled(row, chunk);
  static_assert(kSampleRowStep % 8 == 0, "rows of a thread share their swizzle");

  wait_for_kernel_before();
  SampleCorners<T> upcoming[kSampleTogether];
  auto const locate = [&] {
#pragma unroll
    for (int i = 0; i < kSampleTogether; ++i) upcoming[i] = corners[i * kSampleRowStep];
    corners += kColumnPositions;
  };
  locate();
  for (int left = end - first; left > 0; --left, out += kColumnPositions * kRowChunks) {
    Gathered<T> rows[kSampleTogether];
#pragma unroll
    for (int i = 0; i < kSampleTogether; ++i)
      load_inside(rows[i], source.x, source.pixel_bytes, source.row_bytes, upcoming[i]);
    if (left > 1) locate();
#pragma unroll
    for (int i = 0; i < kSampleTogether; ++i) out[i * kSampleRowStep * kRowChunks] = rows[i].template sample<false>();
  }
#else
  __trap();
#endif
}

template <class T>
cudaError_t launch_deform_columns_sample(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                         PackedOperands<T> const& packed, ColumnPass const& pass, cudaStream_t stream) {
  unsigned const weights = a.packed_weight || pass.first_tile > 0 ? 0 : static_cast<unsigned>(weight_threads<T>(plan));
  dim3 const grid(pass.tiles * (kColumnPositions / kSampleRows), static_cast<unsigned>(plan.runs()),
                  static_cast<unsigned>(plan.columns.tap_parts + (weights > 0)));
  return launch_overlapping(deform_columns_sample_kernel<T>, grid, kSampleThreads, 0, stream, true, a, plan, packed,
                            pass, weights);
}

}  // namespace bridge
