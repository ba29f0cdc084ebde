// Deformable convolution: which kernel computes it.
#pragma once

#include <vector>

#include "kernels/deform_columns/choice.cuh"
#include "kernels/deform_columns/launch.cuh"
#include "kernels/deformable/deform_conv2d_launch.cuh"

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
  bool units;      // its stages hold several units
  bool columns;    // samples pass through memory as columns: see deform_columns/
  cudaError_t (*launch)(DeformConv2dArguments<T> const&, DeformConv2dPlan const&, void*, cudaStream_t);

  // Whether its warps rest where a tile leaves rows out.
  bool evens_out() const { return sizeof(T) == 2 && units && exact && channels == 64; }
  bool runs_on(int device_capability) const {
    return exact ? device_capability == capability : device_capability >= capability;
  }
};

// The least compute capability that has the kernel's products and its shared memory: 7.5 has neither bfloat16 nor TF32
// on tensor cores, and a block of it at most 64 kB.
template <class T, class Kernel>
constexpr int kLeastCapability = std::is_same_v<T, half> && Kernel::kShared <= 64 << 10 ? 75 : 80;

template <class T, class Product>
constexpr DeformConv2dVariant<T> mma_variant(char const* name, int residents, double stage, bool tf32 = false) {
  using Kernel = FusedKernel<T, Product>;
  return {name,
          kLeastCapability<T, Kernel>,
          false,
          Product::kPositions,
          Product::kChannels,
          residents,
          stage,
          Product::kParts,
          false,
          tf32,
          false,
          false,
          launch_fused<T, Kernel>};
}

// Every variant; their places are what callers remember, so that new ones go to the end.
template <class T>
std::vector<DeformConv2dVariant<T>> const& deform_conv2d_variants() {
  static std::vector<DeformConv2dVariant<T>> const variants{
      {"direct", 0, false, 0, 0, 0, 0, 1, false, false, false, false, launch_direct<T>},
      mma_variant<T, WarpProduct<T, 64, 64>>("mma.sync 64x64", 2, 1.42),
      mma_variant<T, WarpProduct<T, 64, 128>>("mma.sync 64x128", 2, 1.66),
      mma_variant<T, WarpProduct<T, 128, 128>>("mma.sync 128x128", 1, 1.58),
      {"wgmma 128x64", 90, true, 128, 64, 1, 0.62, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 64>>},
      {"wgmma 128x128", 90, true, 128, 128, 1, 0.76, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 128>>},
      {"wgmma 128x256", 90, true, 128, 256, 1, 1.02, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 256>>},
      {"units mma.sync 128x64", 80, false, 128, 64, 2, 3.5, 1, false, false, true, false,
       launch_units<WarpUnitsKernel, T, 64>},
      {"units wgmma 128x64", 90, true, 128, 64, 2, 2.9, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 64>},
      {"units wgmma 128x128", 90, true, 128, 128, 1, 1.9, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 128>},
      {"columns 128x64", 90, true, 128, 64, 2, 0, 1, false, false, false, true, launch_columns<T, 64>},
      {"columns 128x128", 90, true, 128, 128, 1, 0, 1, false, false, false, true, launch_columns<T, 128>},
      {"columns 128x256", 90, true, 128, 256, 1, 0, 1, false, false, false, true, launch_columns<T, 256>},
      {"units wgmma 128x64, shared", 90, true, 128, 64, 1, 1.6, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 64, 1, 2>},
  };
  return variants;
}
template <>
inline std::vector<DeformConv2dVariant<float>> const& deform_conv2d_variants() {
  static std::vector<DeformConv2dVariant<float>> const variants{
      {"direct", 0, false, 0, 0, 0, 0, 1, false, false, false, false, launch_direct<float>},
      mma_variant<float, SplitProduct<64, 64>>("split 64x64", 2, 2.2),
      mma_variant<float, SplitProduct<64, 128, 8>>("split 64x128", 1, 2.0),
      mma_variant<float, WarpProduct<float, 64, 64>>("tf32 64x64", 2, 1.55, true),
      mma_variant<float, WarpProduct<float, 64, 128>>("tf32 64x128", 2, 1.76, true),
      mma_variant<float, WarpProduct<float, 128, 128>>("tf32 128x128", 1, 1.89, true),
      {"wgmma tf32 128x64", 90, true, 128, 64, 1, 0.85, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 64>>},
      {"wgmma tf32 128x128", 90, true, 128, 128, 1, 0.95, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 128>>},
      {"wgmma tf32 128x256", 90, true, 128, 256, 1, 1.25, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 256>>},
      {"wgmma split 128x64", 90, true, 128, 64, 1, 1.1, 2, true, false, false, false,
       launch_fused<float, RegisterKernel<float, 64, 2>>},
      {"wgmma split 128x128", 90, true, 128, 128, 1, 1.5, 2, true, false, false, false,
       launch_fused<float, RegisterKernel<float, 128, 2>>},
      {"units split mma.sync 128x64", 80, false, 128, 64, 1, 2.7, 2, false, false, true, false,
       launch_units<WarpUnitsKernel, float, 64, 2>},
      {"units tf32 mma.sync 128x64", 80, false, 128, 64, 2, 3.5, 1, false, true, true, false,
       launch_units<WarpUnitsKernel, float, 64>},
      {"units wgmma tf32 128x64", 90, true, 128, 64, 2, 3.1, 1, false, true, true, false,
       launch_units<WarpgroupUnitsKernel, float, 64>},
      {"units wgmma split 128x64", 90, true, 128, 64, 1, 1.9, 2, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, float, 64, 2>},
  };
  return variants;
}

// What kind of kernels can compute a convolution. has_columns: there is scratch memory for them.
struct DeformConv2dFit {
  bool tiles, units, columns;

  template <class T>
  DeformConv2dFit(DeformConv2dArguments<T> const& a, bool has_columns)
      : tiles(fits_tiles(a)), units(fits_units(a)), columns(tiles && has_columns && fits_columns(a)) {}

  template <class Variant>
  bool has(Variant const& variant) const {
    return variant.channels == 0 || (variant.units ? units : variant.columns ? columns : tiles);
  }
};

// The variants that compute this convolution on such a device, by their places. Not empty.
template <class T>
std::vector<int> deform_conv2d_choices(DeformConv2dArguments<T> const& a, int capability, bool has_columns) {
  auto const& variants = deform_conv2d_variants<T>();
  DeformConv2dFit const fit(a, has_columns);
  std::vector<int> choices;
  for (size_t i = 0; i < variants.size(); ++i) {
    bool const fits = fit.has(variants[i]) && variants[i].runs_on(capability) && (!variants[i].tf32 || a.tf32);
    if (fits) choices.push_back(static_cast<int>(i));
  }
  return choices;
}

// How a variant that has tiles cuts a convolution.
template <class T>
DeformConv2dPlan plan_of(DeformConv2dArguments<T> const& a, DeformConv2dVariant<T> const& variant) {
  if (variant.columns) return deform_columns_plan(a, variant.channels);
  DeformConv2dPlan plan = variant.units ? deform_conv2d_unit_plan(a, variant.channels)
                                        : deform_conv2d_plan(a, variant.channels, variant.positions);
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
  constexpr double kBlock = 3, kAddition = 3;   // microseconds: start and end of a block; of the kernel that adds sums
  constexpr double kSumsInMicrosecond = 500e3;  // that are written and read again
  constexpr double kPackedInMicrosecond = 3e6 / 2;  // bytes, likewise
  constexpr double kStart = 3, kEstimated = 1.06;   // microseconds that were measured: so many, and of those expected
  constexpr double kFilled = 0.7;  // of its time takes a stage of units whose neighbours share an offset group
  DeformConv2dChoice best{choices.front(), deform_conv2d_plan(a, 64)};
  double best_time = 0;
  bool const filled = choices.size() > 1 && fits_tiles(a) && best.plan.segment % kDepth<T> == 0;
  double const map = double(a.batch) * a.channels * a.plane() * sizeof(T);
  double const corners = double(a.positions()) * a.offset_groups * a.taps() * sizeof(SampleCorners<T>);
  for (int choice : choices) {
    auto const& variant = deform_conv2d_variants<T>()[choice];
    if (variant.channels == 0) continue;
    double const stage = variant.units && filled ? kFilled * variant.stage : variant.stage;
    DeformConv2dPlan plan = plan_of(a, variant);
    double const packed = (plan.as_it_is ? 0 : map) + (variant.units ? 0 : corners);
    if (variant.columns) {
      double const time = (cut_column_product(plan, a.batch, packed, multiprocessors) - kStart) / kEstimated;
      if (best_time == 0 || time < best_time) best = {choice, plan}, best_time = time;
      continue;
    }
    if (variant.evens_out()) even_out_tiles(a, plan, multiprocessors);
    int64_t const blocks = plan.blocks(a.batch);
    int64_t const sums = blocks * plan.tile_size(), most = kSplitSums / std::max<int64_t>(sums, 1);
    for (int splits = 1; splits == 1 || splits <= std::min<int64_t>(most, plan.stages() / kLeastStages); ++splits) {
      split(plan, splits);
      int64_t const waves = ceil_divide(blocks * plan.splits, int64_t(multiprocessors) * variant.residents);
      double time = double(waves) * (plan.split_stages * stage + kBlock) + packed / kPackedInMicrosecond;
      if (plan.splits > 1) time += kAddition + double(sums * plan.splits) / kSumsInMicrosecond;
      if (best_time == 0 || time < best_time) best = {choice, plan}, best_time = time;
    }
  }
  return best;
}

}  // namespace bridge
