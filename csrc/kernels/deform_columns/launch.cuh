// Launches of the deformable convolution in two passes.
#pragma once

#include "kernels/deform_columns/product.cuh"
#include "kernels/deform_columns/sample.cuh"

namespace bridge {

template <class T, class Tile>
cudaError_t launch_deform_columns_product(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                          PackedOperands<T> const& packed, ColumnPass const& pass,
                                          cudaStream_t stream) {
  int const wide = results_together(a, plan);
  unsigned const along = plan.columns.positions;
  dim3 const grid((pass.tiles + along - 1) / along * along, static_cast<unsigned>(plan.groups * plan.tiles),
                  static_cast<unsigned>(plan.splits));
  dim3 const cluster(along, plan.columns.channels, plan.splits);
  constexpr auto kernel = deform_columns_product_kernel<T, Tile>;
  constexpr int kShared = sizeof(ColumnShared<Tile>);
  cudaError_t const status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (status != cudaSuccess) return status;
  return launch_in_clusters(kernel, grid, Tile::kThreads, cluster, kShared, stream, true, a, plan, packed, pass, wide);
}

template <class T, int kChannels>
cudaError_t launch_columns(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, void* workspace,
                           cudaStream_t stream) {
  if (weight_threads<T>(plan) > kMaxWeightThreads / 2) return cudaErrorInvalidValue;
  PackedOperands<T> packed;
  deform_conv2d_workspace(a, plan, &packed, workspace);
  DeformConv2dArguments<T> map = a;
  map.packed_weight = packed.weight;  // who samples lays it out, if it is not there
  cudaError_t status = launch_deform_conv2d_pack(map, plan, packed, stream);
  auto const all = static_cast<unsigned>(plan.positions.count(a.batch)), together = unsigned(plan.columns.tiles);
  for (unsigned first = 0; first < all && status == cudaSuccess; first += together) {
    ColumnPass const pass{first, std::min(together, all - first)};
    status = launch_deform_columns_sample(a, plan, packed, pass, stream);
    if (status == cudaSuccess)
      status = launch_deform_columns_product<T, ColumnTile<T, kChannels>>(a, plan, packed, pass, stream);
  }
  return status;
}

}  // namespace bridge
