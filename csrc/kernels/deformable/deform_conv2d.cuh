// Deformable convolution: which kernel computes it.
#pragma once

#include <vector>

#include "kernels/deform_columns/choice.cuh"
#include "kernels/deform_columns/launch.cuh"
#include "kernels/deformable/deform_conv2d_launch.cuh"

namespace bridge {

// A way to compute it. capability: least compute capability, as 10 major + minor; exact: of that one alone.
// positions, channels: of a tile; 0 for the direct kernel. residents: blocks that a multiprocessor holds at once.
// stage: microseconds that each of them takes for a stage, as measured on an H200; of units where neighbouring samples
// share an offset group.
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
      mma_variant<T, WarpProduct<T, 64, 64>>("mma.sync 64x64", 2, 1.34),
      mma_variant<T, WarpProduct<T, 64, 128>>("mma.sync 64x128", 2, 1.69),
      mma_variant<T, WarpProduct<T, 128, 128>>("mma.sync 128x128", 1, 1.78),
      {"wgmma 128x64", 90, true, 128, 64, 1, 0.522, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 64>>},
      {"wgmma 128x128", 90, true, 128, 128, 1, 0.704, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 128>>},
      {"wgmma 128x256", 90, true, 128, 256, 1, 1.06, 1, true, false, false, false,
       launch_fused<T, RegisterKernel<T, 256>>},
      {"units mma.sync 128x64", 80, false, 128, 64, 2, 2.6, 1, false, false, true, false,
       launch_units<WarpUnitsKernel, T, 64>},
      {"units wgmma 128x64", 90, true, 128, 64, 2, 1.89, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 64>},
      {"units wgmma 128x128", 90, true, 128, 128, 1, 1.39, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 128>},
      {"columns 128x64", 90, true, 128, 64, 2, 0, 1, false, false, false, true, launch_columns<T, 64>},
      {"columns 128x128", 90, true, 128, 128, 1, 0, 1, false, false, false, true, launch_columns<T, 128>},
      {"columns 128x256", 90, true, 128, 256, 1, 0, 1, false, false, false, true, launch_columns<T, 256>},
      {"units wgmma 128x64, shared", 90, true, 128, 64, 1, 1.06, 1, false, false, true, false,
       launch_units<WarpgroupUnitsKernel, T, 64, 1, 2>},
  };
  return variants;
}
template <>
inline std::vector<DeformConv2dVariant<float>> const& deform_conv2d_variants() {
  static std::vector<DeformConv2dVariant<float>> const variants{
      {"direct", 0, false, 0, 0, 0, 0, 1, false, false, false, false, launch_direct<float>},
      mma_variant<float, SplitProduct<64, 64>>("split 64x64", 2, 2.33),
      mma_variant<float, SplitProduct<64, 128, 8>>("split 64x128", 1, 2.12),
      mma_variant<float, WarpProduct<float, 64, 64>>("tf32 64x64", 2, 1.64, true),
      mma_variant<float, WarpProduct<float, 64, 128>>("tf32 64x128", 2, 1.87, true),
      mma_variant<float, WarpProduct<float, 128, 128>>("tf32 128x128", 1, 2, true),
      {"wgmma tf32 128x64", 90, true, 128, 64, 1, 0.901, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 64>>},
      {"wgmma tf32 128x128", 90, true, 128, 128, 1, 1.01, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 128>>},
      {"wgmma tf32 128x256", 90, true, 128, 256, 1, 1.33, 1, true, true, false, false,
       launch_fused<float, RegisterKernel<float, 256>>},
      {"wgmma split 128x64", 90, true, 128, 64, 1, 1.07, 2, true, false, false, false,
       launch_fused<float, RegisterKernel<float, 64, 2>>},
      {"wgmma split 128x128", 90, true, 128, 128, 1, 1.56, 2, true, false, false, false,
       launch_fused<float, RegisterKernel<float, 128, 2>>},
      {"units split mma.sync 128x64", 80, false, 128, 64, 1, 1.84, 2, false, false, true, false,
       launch_units<WarpUnitsKernel, float, 64, 2>},
      {"units tf32 mma.sync 128x64", 80, false, 128, 64, 2, 2.39, 1, false, true, true, false,
       launch_units<WarpUnitsKernel, float, 64>},
      {"units wgmma tf32 128x64", 90, true, 128, 64, 2, 2.12, 1, false, true, true, false,
       launch_units<WarpgroupUnitsKernel, float, 64>},
      {"units wgmma split 128x64", 90, true, 128, 64, 1, 1.41, 2, false, false, true, false,
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

// Fitted to what an H200 took for the layers of published models and others near them, 200 in all, with every kernel.
// Microseconds.
struct FusedTimes {
  static constexpr double kStart = 2.94, kUnitStart = 1.47;  // launches; those of units, beside that
  static constexpr double kBlock = 4.64;                     // start and end of a block
  static constexpr double kAddition = 1.46;                  // of the kernel that adds sums
  static constexpr double kSum = 1 / 640e3;                  // that is written and read again
  static constexpr double kPacked = 1 / 2.12e6;              // a byte that is laid out
  static constexpr double kTurned = 1 / 534e3;  // a byte of channels last that is laid out in maps of units
  static constexpr double kAlone = 0.764;       // of a stage's time, for a block without a neighbour
  static constexpr double kOfTile = 120;        // of a stage, as even_out_tiles has it
};

// A variant's work on a convolution. stage, packing: microseconds of a stage, and of laying operands out.
template <class T>
struct FusedWork {
  DeformConv2dPlan plan;
  double stage, packing;
  int residents;
  bool units;

  // filled: neighbouring samples of a row share an offset group.
  FusedWork(DeformConv2dArguments<T> const& a, DeformConv2dVariant<T> const& variant, bool filled, int multiprocessors)
      : plan(plan_of(a, variant)), stage(variant.stage), residents(variant.residents), units(variant.units) {
    packing = packed_bytes(a, plan) * FusedTimes::kPacked;
    if (!units) return;
    packing += FusedTimes::kUnitStart + (a.channels_last ? packed_bytes(a, plan) * FusedTimes::kTurned : 0);
    stage *= filled ? 1 : plan.units == 4 ? 1.02 : plan.units == 8 ? 1.32 : 1.77;
    if (!variant.evens_out()) return;
    even_out_tiles(a, plan, multiprocessors);
    double const left_out = double(plan.positions.left_out) * (1 << plan.positions.width_log2);
    stage *= 1 - left_out / (plan.tile_positions + FusedTimes::kOfTile);
  }
  // As the plan is split.
  double time(int64_t batch, int multiprocessors) const {
    int64_t const blocks = plan.blocks(batch) * plan.splits, turns = ceil_divide(blocks, multiprocessors);
    double const together = double(turns / residents) * (plan.split_stages * stage + FusedTimes::kBlock);
    double const alone = plan.split_stages * stage * FusedTimes::kAlone + FusedTimes::kBlock;
    double const added = FusedTimes::kAddition + double(blocks * plan.tile_size()) * FusedTimes::kSum;
    return FusedTimes::kStart + packing + together + (turns % residents ? alone : 0) + (plan.splits > 1 ? added : 0);
  }
};

// Of these variants and the ways to share tiles among blocks, what is expected to take the least time.
template <class T>
DeformConv2dChoice deform_conv2d_choice(DeformConv2dArguments<T> const& a, std::vector<int> const& choices,
                                        int multiprocessors) {
  DeformConv2dChoice best{choices.front(), deform_conv2d_plan(a, 64)};
  double best_time = 0;
  bool const filled = choices.size() > 1 && fits_tiles(a) && best.plan.segment % kDepth<T> == 0;
  auto const consider = [&](int choice, DeformConv2dPlan const& plan, double time) {
    if (best_time == 0 || time < best_time) best = {choice, plan}, best_time = time;
  };
  for (int choice : choices) {
    auto const& variant = deform_conv2d_variants<T>()[choice];
    if (variant.channels == 0) continue;
    if (variant.columns) {
      DeformConv2dPlan plan = plan_of(a, variant);
      double const time = cut_column_product(plan, a.batch, packed_bytes(a, plan), multiprocessors);
      consider(choice, plan, time);
      continue;
    }
    FusedWork<T> work(a, variant, filled, multiprocessors);
    int64_t const sums = work.plan.blocks(a.batch) * work.plan.tile_size();
    int64_t const most = std::min<int64_t>(kSplitSums / std::max<int64_t>(sums, 1), work.plan.stages() / kLeastStages);
    for (int splits = 1; splits == 1 || splits <= most; ++splits) {
      split(work.plan, splits);
      consider(choice, work.plan, work.time(a.batch, multiprocessors));
    }
  }
  return best;
}

}  // namespace bridge
