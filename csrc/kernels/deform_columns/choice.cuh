// How the product of a deformable convolution in two passes is cut, and the time that both should take.
#pragma once

#include "kernels/deform_columns/plan.cuh"

namespace bridge {

// Fitted to what an H200 took for convolutions in two passes, among those of FusedTimes. Microseconds.
struct ColumnTimes {
  static constexpr double kBlock = 5.87;                             // start and end of a block
  static constexpr double kFirstAddition = 0.92, kAddition = 0.689;  // sums of other blocks of the cluster: one, each
  static constexpr double kBytes = 1 / 145e3;                        // a byte from the L2
  static constexpr double kOfCluster = 0.0409;                       // of a stage: waiting for blocks beside it
  static constexpr double kSampled = 1 / 2.26e6;   // a byte of columns that is written, on the whole GPU
  static constexpr double kPacked = 1 / 0.866e6;   // a byte of the operands that are laid out, likewise
  static constexpr double kPass = 0.936;           // a launch
  static constexpr double kAlone = 1.43;           // what a block with narrow tiles takes when alone
  static constexpr int kOfGpc = 16, kOutside = 8;  // multiprocessors that share clusters, at least, and that do not

  // What a block's stage takes where it is copied in time.
  static constexpr double stage(int channels) { return channels == 64 ? 0.225 : channels == 128 ? 0.272 : 0.622; }
};

// Clusters that run at once, with a block on each multiprocessor. Those of a cluster are of one GPC; the last of these
// has fewer multiprocessors.
inline int64_t clusters_at_once(int blocks, int multiprocessors) {
  if (blocks <= 2) return std::max(multiprocessors / blocks, 1);
  int const whole = std::max(multiprocessors / ColumnTimes::kOfGpc - 1, 0);
  int const last = std::max(multiprocessors - whole * ColumnTimes::kOfGpc - ColumnTimes::kOutside, 0);
  return std::max(whole * (ColumnTimes::kOfGpc / blocks) + last / blocks, 1);
}

// Of the product in one pass.
inline double column_product_time(DeformConv2dPlan const& plan, int multiprocessors) {
  int64_t const along = plan.columns.positions, across = plan.columns.channels;
  int64_t const clusters = ceil_divide(plan.columns.tiles, along) * plan.groups * (plan.tiles / across);
  int const of_cluster = static_cast<int>(along * across) * plan.splits;
  bool const narrow = plan.tile_channels == 64;
  int64_t const room = clusters_at_once(of_cluster, multiprocessors) * (narrow ? 2 : 1);
  double const bytes = (double(kColumnPositions) / across + double(plan.tile_channels) / along) * kRowBytes;
  double const beside = narrow ? clusters * of_cluster > multiprocessors ? 2 : ColumnTimes::kAlone : 1;
  double const waiting = 1 + ColumnTimes::kOfCluster * ((along > 1) + (across > 1));
  double const stage = std::max(ColumnTimes::stage(plan.tile_channels), bytes * ColumnTimes::kBytes) * beside * waiting;
  double const added = plan.splits > 1 ? ColumnTimes::kFirstAddition + (plan.splits - 1) * ColumnTimes::kAddition : 0;
  return double(ceil_divide(clusters, room)) * (plan.split_stages * stage + ColumnTimes::kBlock) + added;
}

// Cuts the product so that it should take the least time, and returns that of the whole convolution. packed: bytes of
// the operands that are laid out before.
inline double cut_column_product(DeformConv2dPlan& plan, int64_t batch, double packed, int multiprocessors) {
  DeformConv2dPlan best = plan;
  double least = 0;
  for (int positions : {1, 2}) {
    for (int channels : {1, 2}) {
      if (plan.tiles % channels != 0 || positions > plan.columns.tiles) continue;
      for (int splits = 1; splits <= std::min(kMostOfCluster / (positions * channels), plan.stages()); ++splits) {
        split(plan, splits);
        plan.columns.positions = positions, plan.columns.channels = channels;
        double const time = column_product_time(plan, multiprocessors);
        if (least == 0 || time < least) best = plan, least = time;
      }
    }
  }
  plan = best;
  share_taps(plan);
  double const sampled = double(plan.column_bytes()) * plan.columns.tiles * ColumnTimes::kSampled;
  double const passes = double(ceil_divide(plan.positions.count(batch), plan.columns.tiles));
  return packed * ColumnTimes::kPacked + ColumnTimes::kPass + passes * (least + sampled + 2 * ColumnTimes::kPass);
}

}  // namespace bridge
