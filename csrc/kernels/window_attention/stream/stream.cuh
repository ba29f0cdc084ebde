// Attention of few rows by blocks that stream keys: the kernel and its launch.
#pragma once

#include <algorithm>
#include <optional>

#include "kernels/window_attention/launch.cuh"
#include "kernels/window_attention/stream/join.cuh"

namespace bridge {

// One dimension of blocks: batch, group, tile of rows, part, block of its cluster.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_stream_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts, __grid_constant__ AttentionMaps const maps,
    int blocks) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<StreamShared<Tile>*>(memory);
  int const splits = parts.count * blocks;
  AttentionRows<typename Tile::T> rows(a, Tile::kRows, splits, blockIdx.x);
  StreamSteps<Tile> steps(a, rows, maps, shared, splits);
  steps.walk();
  int const rank = rows.split % blocks;
  rows.split /= blocks;
  StreamJoin<Tile>(rows, parts, shared, blocks, rank).join(steps);
#else
  __trap();
#endif
}

// Nothing where other kernels are to compute it.
template <class Tile>
std::optional<cudaError_t> try_stream(WindowAttentionArguments<typename Tile::T> const& a, void* workspace,
                                      cudaStream_t stream) {
  constexpr int kShared = std::max(sizeof(StreamShared<Tile>), sizeof(StreamResults<Tile>));
  static_assert(residents_fit(Tile::kResidents, kShared));
  AttentionMaps maps;
  auto const plan = StreamPlan::of<Tile>(a, workspace != nullptr);
  if (!make_key_maps(maps, a, Tile::kKeysOfWarp, CU_TENSOR_MAP_L2_PROMOTION_L2_128B) || plan.items() > kMaxGridX)
    return {};
  cudaError_t status = allow_shared(window_attention_stream_kernel<Tile>, kShared);
  if (status != cudaSuccess) return status;
  AttentionParts const parts = attention_parts(a, plan.parts, workspace);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = plan.blocks, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(plan.items()), config.blockDim = Tile::kThreads;
  config.dynamicSmemBytes = kShared, config.stream = stream, config.attrs = &cluster, config.numAttrs = 1;
  status = cudaLaunchKernelEx(&config, window_attention_stream_kernel<Tile>, a, parts, maps, plan.blocks);
  return status == cudaSuccess && parts.count > 1 ? launch_window_attention_combine(a, parts, stream) : status;
}

}  // namespace bridge
