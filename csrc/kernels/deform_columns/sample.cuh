// Columns of offset groups that fill a row of a tile: 8 threads of 16 bytes share a row.
#pragma once

#include "kernels/deform_columns/plan.cuh"
#include "kernels/deformable/deform_conv2d_launch.cuh"

namespace bridge {

constexpr int kSampleRowStep = kSampleThreads / kRowChunks, kSampleTogether = 2;  // rows of a thread: apart, at once
constexpr int kSampleRows = kSampleRowStep * kSampleTogether;                     // of a block

// How weights are laid out beside the samples: by so many threads, in blocks of so many z more; none where it is done.
struct WeightsBeside {
  unsigned threads, parts;
};

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

template <class T>
__device__ void pack_weights_beside(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, T* packed,
                                    WeightsBeside const& weights) {
  unsigned const blocks = gridDim.x * gridDim.y, all = weights.parts * blocks * kSampleThreads;
  unsigned const block = blockIdx.z * blocks + blockIdx.y * gridDim.x + blockIdx.x, threads = weights.threads;
  unsigned thread = block * kSampleThreads + threadIdx.x;
#pragma unroll 1
  for (; thread < threads; thread += all) pack_weight(a, plan, packed, thread);
}

#endif  // BRIDGE_WGMMA

// Grid: x over parts of tiles of positions, y over runs of kDepth channels, z over parts of the taps. Where weights are
// to be laid out, blocks of further z do that, while others wait for the feature map.
template <class T>
__global__ void __launch_bounds__(kSampleThreads, 4) deform_columns_sample_kernel(DeformConv2dArguments<T> a,
                                                                                  DeformConv2dPlan plan,
                                                                                  PackedOperands<T> packed,
                                                                                  ColumnPass pass,
                                                                                  WeightsBeside weights) {
#ifdef BRIDGE_WGMMA
  let_next_kernel_begin();
  if (blockIdx.z < weights.parts) return pack_weights_beside(a, plan, packed.weight, weights);
  constexpr unsigned kParts = kColumnPositions / kSampleRows;
  unsigned const tile = blockIdx.x / kParts, run = blockIdx.y, runs_of_group = plan.segments * plan.chunks;
  int const group = static_cast<int>(run / runs_of_group), of_group = static_cast<int>(run % runs_of_group);
  unsigned const parts = plan.columns.tap_parts, part = blockIdx.z - weights.parts;
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
  dim3 grid(pass.tiles * (kColumnPositions / kSampleRows), static_cast<unsigned>(plan.runs()));
  WeightsBeside weights{};
  if (!a.packed_weight && pass.first_tile == 0) {
    weights.threads = static_cast<unsigned>(weight_threads<T>(plan));
    unsigned const blocks = grid.x * grid.y, wanted = (weights.threads + kSampleThreads - 1) / kSampleThreads;
    weights.parts = (std::min<unsigned>(wanted, kSampleBlocks) + blocks - 1) / blocks;
  }
  grid.z = static_cast<unsigned>(plan.columns.tap_parts) + weights.parts;
  return launch_overlapping(deform_columns_sample_kernel<T>, grid, kSampleThreads, 0, stream, true, a, plan, packed,
                            pass, weights);
}

}  // namespace bridge
