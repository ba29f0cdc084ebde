// Launches of the kernels of deformable convolution, and the scratch memory that they share.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/deform_registers/kernel.cuh"
#include "kernels/deformable/deform_conv2d_cut.cuh"
#include "kernels/deformable/deform_conv2d_direct.cuh"
#include "kernels/deformable/deform_conv2d_fused.cuh"
#include "kernels/deformable/deform_conv2d_units_kernel.cuh"
#include "kernels/deformable/deform_conv2d_units_pack.cuh"

namespace bridge {

inline Size align_up(Size bytes) { return floor_div(bytes + 255, 256) * 256; }

constexpr int64_t kSplitSums = 132 * 128 * 256;  // of all blocks, where blocks share tiles
constexpr int kLeastStages = 3;                  // of a block that shares a tile

// Scratch memory of the packed operands; its size, and where they lie in it.
template <class T>
size_t deform_conv2d_workspace(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                               PackedOperands<T>* packed = nullptr, void* memory = nullptr) {
  constexpr size_t kSums = sizeof(float) * kSplitSums, kZeros = 256;
  static_assert(kZeros >= 2 * kRowBytes);
  size_t const weight = align_up(packed_weight_bytes<T>(plan)).bytes();
  int64_t const located = plan.units == 1 ? packed_corners<T>(plan, a.batch) : 0;
  size_t const corners = align_up(Size(located) * sizeof(SampleCorners<T>)).bytes();
  size_t const terms = align_up(Size(plan.table()) * sizeof(UnitTerm)).bytes();
  Size const image = plan.units == 1 ? Size(a.plane()) * plan.pixel * sizeof(T)
                                     : Size(plan.runs()) * plan.unit.map_pixels() * unit_pixel_bytes(plan.units);
  size_t const x = align_up(Size(a.batch) * image).bytes();  // also where this x needs none
  size_t const columns = plan.columns.used ? (Size(plan.columns.room) * plan.column_bytes()).bytes() : 0;
  if (packed) {
    auto* bytes = static_cast<char*>(memory);
    packed->zeros = reinterpret_cast<T*>(bytes);
    packed->sums = reinterpret_cast<float*>(bytes + kZeros);
    packed->weight = a.packed_weight ? const_cast<T*>(a.packed_weight) : reinterpret_cast<T*>(bytes + kZeros + kSums);
    packed->corners = reinterpret_cast<SampleCorners<T>*>(bytes + kZeros + kSums + weight);
    bytes += kZeros + kSums + weight + corners;
    packed->terms = reinterpret_cast<UnitTerm*>(bytes);
    packed->columns = reinterpret_cast<T*>(bytes + terms);
    packed->x = plan.as_it_is ? const_cast<T*>(a.x) : reinterpret_cast<T*>(bytes + terms + columns);
  }
  return (Size(kZeros + kSums) + weight + corners + terms + columns + x).bytes();
}

template <class T>
cudaError_t launch_direct(DeformConv2dArguments<T> const& a, DeformConv2dPlan const&, void*, cudaStream_t stream) {
  return launch_deform_conv2d_direct(a, stream);
}

// kOverlaps: it is of compute capability 9.0 alone, and so may overlap.
template <class T, class Product>
struct FusedKernel {
  static constexpr bool kOverlaps = false;
  static constexpr auto kFunction = deform_conv2d_tile_kernel<T, Product>;
  static constexpr int kThreads = Product::kThreads;
  static constexpr size_t kShared =
      std::max(sizeof(DeformConv2dShared<T, Product>), sizeof(ResultTile<T, Product::kPositions, Product::kChannels>));
};
template <class T, int kChannels, int kParts = 1>
struct RegisterKernel {
  static constexpr bool kOverlaps = true;
  using Tile = RegisterTile<T, kChannels, kParts>;
  static constexpr auto kFunction = deform_conv2d_register_kernel<T, Tile>;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr size_t kShared = sizeof(RegisterShared<Tile>);
};

template <class Product>
constexpr size_t kUnitShared = std::max(
    sizeof(UnitShared<Product>), sizeof(ResultTile<typename Product::T, Product::kPositions, Product::kChannels>));
template <class Tile>
struct WarpUnitsKernel {
  static constexpr bool kOverlaps = false;
  using Product = UnitsByWarp<Tile>;
  static constexpr auto kFunction = deform_conv2d_warp_units_kernel<Product>;
  static constexpr int kThreads = Product::kThreads;
  static constexpr size_t kShared = kUnitShared<Product>;
};
template <class Tile>
struct WarpgroupUnitsKernel {
  static constexpr bool kOverlaps = true;
  using Product = UnitsByWarpgroup<Tile>;
  static constexpr auto kFunction = deform_conv2d_warpgroup_units_kernel<Product>;
  static constexpr int kThreads = Product::kThreads;
  static constexpr size_t kShared = kUnitShared<Product>;
};

template <class T, class Kernel>
cudaError_t launch_fused(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, void* workspace,
                         cudaStream_t stream) {
  PackedOperands<T> packed;
  deform_conv2d_workspace(a, plan, &packed, workspace);
  cudaError_t status = plan.units == 1 ? launch_deform_conv2d_pack(a, plan, packed, stream)
                                       : launch_deform_conv2d_pack_units(a, plan, packed, stream);
  if (status != cudaSuccess) return status;
  constexpr auto kernel = Kernel::kFunction;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kShared);
  if (status != cudaSuccess) return status;
  dim3 const grid(static_cast<unsigned>(plan.positions.count(a.batch)), static_cast<unsigned>(plan.groups * plan.tiles),
                  static_cast<unsigned>(plan.splits));
  int const wide = results_together(a, plan);
  status = launch_overlapping(kernel, grid, Kernel::kThreads, Kernel::kShared, stream, Kernel::kOverlaps, a, plan,
                              packed, wide);
  if (status != cudaSuccess || plan.splits == 1) return status;
  dim3 const parts(grid.x, grid.y, static_cast<unsigned>(plan.tile_size() / (kPackThreads * kAddTogether)));
  return launch_overlapping(deform_conv2d_add_kernel<T>, parts, kPackThreads, 0, stream, Kernel::kOverlaps, a, plan,
                            static_cast<float const*>(packed.sums));
}

template <template <class> class Kernel, class T, int kChannels, int kParts = 1, int kShares = 1>
cudaError_t launch_units(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, void* workspace,
                         cudaStream_t stream) {
  return for_units<T>(plan.units, [&](auto units) {
    using Tile = UnitTile<T, units, kChannels, kParts, false, kShares>;
    using OfLogits = UnitTile<T, units, kChannels, kParts, true, kShares>;
    return a.logits ? launch_fused<T, Kernel<OfLogits>>(a, plan, workspace, stream)
                    : launch_fused<T, Kernel<Tile>>(a, plan, workspace, stream);
  });
}

}  // namespace bridge
