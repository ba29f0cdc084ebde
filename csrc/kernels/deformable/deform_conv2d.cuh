// Deformable convolution: which kernel computes it.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/deformable/deform_conv2d_direct.cuh"
#include "kernels/deformable/deform_conv2d_fused.cuh"
#include "kernels/deformable/deform_conv2d_registers.cuh"

namespace bridge {

// A way to compute it. capability: least compute capability, as 10 major + minor; exact: of that one alone.
// positions, channels: of a tile; 0 for the direct kernel. residents: blocks that a multiprocessor holds at once.
// stage: microseconds that each of them takes for a stage, as measured on an H200.
template <class T>
struct DeformConv2dVariant {
  char const* name;
  int capability;
  bool exact;
  int positions, channels, residents;
  double stage;
  int parts;       // see DeformConv2dPlan
  bool fragments;  // likewise
  bool tf32;       // rounds float to TF32, and is there for those who ask for that
  cudaError_t (*launch)(DeformConv2dArguments<T> const&, DeformConv2dPlan const&, void*, cudaStream_t);

  bool runs_on(int device_capability) const {
    return exact ? device_capability == capability : device_capability >= capability;
  }
};

// The shape of tiles that covers an image with the fewest; of several the one nearest to a square.
template <class T>
PositionTile position_tile(DeformConv2dArguments<T> const& a, int positions) {
  PositionTile best{};
  for (int width_log2 : {4, 3, 5, 6}) {
    int const width = 1 << width_log2, height = positions / width;
    auto cut = [](int extent, int tile) { return to_int(ceil_divide(extent, tile)); };
    PositionTile const tiles{width_log2, cut(a.out_height, height), cut(a.out_width, width)};
    if (best.rows == 0 || tiles.count(1) < best.count(1)) best = tiles;
  }
  return best;
}

// How many groups in a row are taken together, so that they fill a tile's depth; one where they fill half of it.
template <class T>
int64_t groups_together(DeformConv2dArguments<T> const& a) {
  int64_t const own = a.channels / a.groups;
  int64_t most = 1;
  if (2 * own >= kDepth<T>) return most;
  for (int64_t count = 2; count <= a.groups && own * count <= kDepth<T>; ++count) {
    if (a.groups % count == 0) most = count;
  }
  return most;
}

template <class T>
DeformConv2dPlan deform_conv2d_plan(DeformConv2dArguments<T> const& a, int tile_channels, int tile_positions = 64) {
  DeformConv2dPlan plan{};
  plan.positions = position_tile(a, tile_positions), plan.tile_positions = tile_positions;
  plan.groups = a.groups / groups_together(a), plan.taps = a.taps(), plan.tile_channels = tile_channels;
  plan.own_channels = a.channels / a.groups, plan.own_out = a.out_channels / a.groups;
  plan.group_channels = a.channels / plan.groups, plan.group_out = a.out_channels / plan.groups;
  plan.segment = std::gcd(plan.group_channels, a.channels / a.offset_groups);
  plan.segments = to_int(plan.group_channels / plan.segment);
  plan.chunks = to_int(ceil_divide(plan.segment, kDepth<T>));
  plan.tiles = to_int(ceil_divide(plan.group_out, tile_channels));
  to_int((Size(plan.segments) * plan.chunks * plan.taps).value());  // the stages
  plan.pixel = (Size(plan.groups) * plan.segments * plan.chunks * kDepth<T>).value();
  plan.as_it_is = a.channels_last && plan.pixel == a.channels && aligned(a.x, kRowBytes);
  plan.offset_groups = a.offset_groups, plan.splits = 1, plan.split_stages = plan.stages(), plan.parts = 1;
  plan.segments_per_offset_group = to_int(a.channels / a.offset_groups / plan.segment);
  return plan;
}

// Whether tiles are filled well enough by the convolution's channels, and the fused kernel's indices reach.
template <class T>
bool fits_tiles(DeformConv2dArguments<T> const& a) {
  bool const filled = a.batch > 0 && a.channels > 0 && a.out_channels > 0 && a.plane() > 0 && a.out_plane() > 0;
  if (!filled || a.taps() < 1 || a.groups < 1 || a.offset_groups < 1) return false;
  DeformConv2dPlan const plan = deform_conv2d_plan(a, 64, 128);
  constexpr int64_t kMaxIndex = (int64_t(1) << 31) - 1;
  return 2 * plan.segment >= kDepth<T> && plan.group_out >= 16 && Size(a.batch) * a.plane() <= kMaxIndex &&
         Size(plan.pixel) * a.width * sizeof(T) <= kMaxIndex && packed_corners<T>(plan, a.batch) <= kMaxIndex &&
         Size(plan.groups) * plan.tiles <= kMaxGridY;
}

inline Size align_up(Size bytes) { return floor_div(bytes + 255, 256) * 256; }

constexpr int kSplitBlocks = 264;     // no more blocks than this share tiles
constexpr int kSplitChannels = 64;    // of tiles that blocks may share
constexpr int kSplitPositions = 128;  // at most
constexpr int kLeastStages = 3;       // of a block that shares a tile

// Cuts the stages of each tile into `splits` parts.
inline void split(DeformConv2dPlan& plan, int splits) {
  plan.split_stages = static_cast<int>(ceil_divide(plan.stages(), splits));
  plan.splits = static_cast<int>(ceil_divide(plan.stages(), plan.split_stages));
}

// Scratch memory of the packed operands; its size, and where they lie in it.
template <class T>
size_t deform_conv2d_workspace(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                               PackedOperands<T>* packed = nullptr, void* memory = nullptr) {
  constexpr size_t kSums = sizeof(float) * kSplitBlocks * kSplitChannels * kSplitPositions, kZeros = 256;
  static_assert(kZeros >= kRowBytes);
  size_t const weight = align_up(packed_weight_bytes<T>(plan)).bytes();
  size_t const corners = align_up(Size(packed_corners<T>(plan, a.batch)) * sizeof(SampleCorners<T>)).bytes();
  // Also where this x needs none.
  size_t const x = align_up(Size(a.batch) * a.plane() * plan.pixel * sizeof(T)).bytes();
  if (packed) {
    auto* const bytes = static_cast<char*>(memory);
    packed->zeros = reinterpret_cast<T*>(bytes);
    packed->sums = reinterpret_cast<float*>(bytes + kZeros);
    packed->weight = a.packed_weight ? const_cast<T*>(a.packed_weight) : reinterpret_cast<T*>(bytes + kZeros + kSums);
    packed->corners = reinterpret_cast<SampleCorners<T>*>(bytes + kZeros + kSums + weight);
    packed->x = plan.as_it_is ? const_cast<T*>(a.x) : reinterpret_cast<T*>(bytes + kZeros + kSums + weight + corners);
  }
  return (Size(kZeros + kSums) + weight + corners + x).bytes();
}

template <class T>
cudaError_t launch_direct(DeformConv2dArguments<T> const& a, DeformConv2dPlan const&, void*, cudaStream_t stream) {
  return launch_deform_conv2d_direct(a, stream);
}

template <class T, class Product>
struct FusedKernel {
  static constexpr auto kFunction = deform_conv2d_fused_kernel<T, Product>;
  static constexpr int kThreads = Product::kThreads;
  static constexpr size_t kShared =
      std::max(sizeof(DeformConv2dShared<T, Product>), sizeof(ResultTile<T, Product::kPositions, Product::kChannels>));
};
template <class T, int kChannels, int kParts = 1>
struct RegisterKernel {
  using Tile = RegisterTile<T, kChannels, kParts>;
  static constexpr auto kFunction = deform_conv2d_register_kernel<T, Tile>;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr size_t kShared = sizeof(RegisterShared<Tile>);
};

template <class T, class Kernel>
cudaError_t launch_fused(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, void* workspace,
                         cudaStream_t stream) {
  PackedOperands<T> packed;
  deform_conv2d_workspace(a, plan, &packed, workspace);
  cudaError_t status = launch_deform_conv2d_pack(a, plan, packed, stream);
  if (status != cudaSuccess) return status;
  constexpr auto kernel = Kernel::kFunction;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kShared);
  if (status != cudaSuccess) return status;
  dim3 const grid(static_cast<unsigned>(plan.positions.count(a.batch)), static_cast<unsigned>(plan.groups * plan.tiles),
                  static_cast<unsigned>(plan.splits));
  bool const wide = aligned(a.y) && a.out_width % kLanes<T> == 0;
  kernel<<<grid, Kernel::kThreads, Kernel::kShared, stream>>>(a, plan, packed, wide);
  if (plan.splits > 1) {
    dim3 const parts(grid.x, grid.y, static_cast<unsigned>(plan.tile_size() / kPackThreads));
    deform_conv2d_add_kernel<<<parts, kPackThreads, 0, stream>>>(a, plan, packed.sums);
  }
  return cudaGetLastError();
}

// Every variant; their places are what callers remember, so that new ones go to the end.
template <class T>
std::vector<DeformConv2dVariant<T>> const& deform_conv2d_variants() {
  static std::vector<DeformConv2dVariant<T>> const variants{
      {"direct", 0, false, 0, 0, 0, 0, 1, false, false, launch_direct<T>},
      {"mma.sync 64x64", 80, false, 64, 64, 2, 1.42, 1, false, false,
       launch_fused<T, FusedKernel<T, WarpProduct<T, 64, 64>>>},
      {"mma.sync 64x128", 80, false, 64, 128, 2, 1.66, 1, false, false,
       launch_fused<T, FusedKernel<T, WarpProduct<T, 64, 128>>>},
      {"mma.sync 128x128", 80, false, 128, 128, 1, 1.58, 1, false, false,
       launch_fused<T, FusedKernel<T, WarpProduct<T, 128, 128>>>},
      {"wgmma 128x64", 90, true, 128, 64, 1, 0.81, 1, true, false, launch_fused<T, RegisterKernel<T, 64>>},
      {"wgmma 128x128", 90, true, 128, 128, 1, 0.9, 1, true, false, launch_fused<T, RegisterKernel<T, 128>>},
      {"wgmma 128x256", 90, true, 128, 256, 1, 1.21, 1, true, false, launch_fused<T, RegisterKernel<T, 256>>},
  };
  return variants;
}
template <>
inline std::vector<DeformConv2dVariant<float>> const& deform_conv2d_variants() {
  static std::vector<DeformConv2dVariant<float>> const variants{
      {"direct", 0, false, 0, 0, 0, 0, 1, false, false, launch_direct<float>},
      {"split 64x64", 80, false, 64, 64, 2, 2.2, 2, false, false,
       launch_fused<float, FusedKernel<float, SplitProduct<64, 64>>>},
      {"split 64x128", 80, false, 64, 128, 1, 2.0, 2, false, false,
       launch_fused<float, FusedKernel<float, SplitProduct<64, 128, 8>>>},
      {"tf32 64x64", 80, false, 64, 64, 2, 1.55, 1, false, true,
       launch_fused<float, FusedKernel<float, WarpProduct<float, 64, 64>>>},
      {"tf32 64x128", 80, false, 64, 128, 2, 1.76, 1, false, true,
       launch_fused<float, FusedKernel<float, WarpProduct<float, 64, 128>>>},
      {"tf32 128x128", 80, false, 128, 128, 1, 1.89, 1, false, true,
       launch_fused<float, FusedKernel<float, WarpProduct<float, 128, 128>>>},
      {"wgmma tf32 128x64", 90, true, 128, 64, 1, 0.85, 1, true, true, launch_fused<float, RegisterKernel<float, 64>>},
      {"wgmma tf32 128x128", 90, true, 128, 128, 1, 0.95, 1, true, true,
       launch_fused<float, RegisterKernel<float, 128>>},
      {"wgmma tf32 128x256", 90, true, 128, 256, 1, 1.25, 1, true, true,
       launch_fused<float, RegisterKernel<float, 256>>},
      {"wgmma split 128x64", 90, true, 128, 64, 1, 1.1, 2, true, false,
       launch_fused<float, RegisterKernel<float, 64, 2>>},
      {"wgmma split 128x128", 90, true, 128, 128, 1, 1.5, 2, true, false,
       launch_fused<float, RegisterKernel<float, 128, 2>>},
  };
  return variants;
}

// The variants that compute this convolution on such a device, by their places. Not empty.
template <class T>
std::vector<int> deform_conv2d_choices(DeformConv2dArguments<T> const& a, int capability) {
  auto const& variants = deform_conv2d_variants<T>();
  std::vector<int> choices{0};
  if (!fits_tiles(a)) return choices;
  for (size_t i = 1; i < variants.size(); ++i) {
    bool const fits = variants[i].runs_on(capability) && (!variants[i].tf32 || a.tf32);
    if (fits) choices.push_back(static_cast<int>(i));
  }
  return choices;
}

// How a variant that has tiles cuts a convolution.
template <class T>
DeformConv2dPlan plan_of(DeformConv2dArguments<T> const& a, DeformConv2dVariant<T> const& variant) {
  DeformConv2dPlan plan = deform_conv2d_plan(a, variant.channels, variant.positions);
  plan.parts = variant.parts, plan.fragments = variant.fragments;
  return plan;
}

struct DeformConv2dChoice {
  int variant;
  DeformConv2dPlan plan;
};

// Of these variants and the ways to share tiles among blocks, what is expected to take the least time.
template <class T>
DeformConv2dChoice deform_conv2d_choice(DeformConv2dArguments<T> const& a, std::vector<int> const& choices,
                                        int multiprocessors) {
  constexpr double kBlock = 3, kAddition = 4;  // microseconds: start and end of a block; of the kernel that adds sums
  DeformConv2dChoice best{choices.front(), deform_conv2d_plan(a, 64)};
  double best_time = 0;
  for (int choice : choices) {
    auto const& variant = deform_conv2d_variants<T>()[choice];
    if (variant.channels == 0) continue;
    DeformConv2dPlan plan = plan_of(a, variant);
    int64_t const blocks = plan.blocks(a.batch);
    int64_t const most = variant.channels == kSplitChannels ? std::max<int64_t>(kSplitBlocks / blocks, 1) : 1;
    for (int splits = 1; splits <= std::min<int64_t>(most, plan.stages() / kLeastStages + 1); ++splits) {
      split(plan, splits);
      int64_t const waves = ceil_divide(blocks * plan.splits, int64_t(multiprocessors) * variant.residents);
      double const time = double(waves) * (plan.split_stages * variant.stage + kBlock) + (plan.splits > 1) * kAddition;
      if (best_time == 0 || time < best_time) best = {choice, plan}, best_time = time;
    }
  }
  return best;
}

}  // namespace bridge
