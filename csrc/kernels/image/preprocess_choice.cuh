// Which kernel for packed images takes less time: the one for pairs of columns, or the one whose rows come through a
// ring. Rows of the ring cost less arithmetic, but something each, however narrow, and are copied as a whole.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/image/preprocess_stream.cuh"

namespace bridge {

// Fitted to what an H200 took for 110 batches of images. Microseconds: pixels, rows and columns are those that one
// multiprocessor has, bytes those of all.
struct PackedTimes {
  static constexpr double kStart = 2.94, kPixel = 0.00073, kFill = 0.00061;  // of results: with pixels, and around them
  static constexpr double kRead = 1 / 4.16e6, kCached = 1 / 5.9e6;           // a byte from memory, or from the L2
};
struct StreamTimes {
  static constexpr double kStart = 3, kRow = 0.098, kStep = 0.0226, kFillStep = 0.0364;  // a step: 64 columns
  static constexpr double kRead = 1 / 3.68e6, kCached = 1 / 6.4e6;
};

// Of a call without boxes.
struct ResizeWork {
  static constexpr double kCache = 55e6;         // bytes of images and results that the L2 keeps
  static constexpr double kWritten = 1 / 4.2e6;  // microseconds of a byte
  double rows, all_rows, pixels, all_pixels;     // of results: where an image is, and all
  double read, written;                          // bytes
  bool cached;

  explicit ResizeWork(PreprocessArguments const& a) {
    constexpr int kResultBytes = 3 * 2;
    Placement const& p = a.whole;
    double const high = std::min(p.row + p.high, a.out_h) - std::max(p.row, 0);
    double const wide = std::min(p.column + p.wide, a.out_w) - std::max(p.column, 0);
    double const taken = std::fmod(p.down, 2.f) == 1.f ? 1 : std::min(p.down, 2.f);  // rows of an image for one
    all_rows = double(a.batch) * a.out_h, rows = a.batch * high;
    all_pixels = all_rows * a.out_w, pixels = rows * wide;
    read = rows * taken * 3 * wide * p.across, written = all_pixels * kResultBytes;
    cached = read + written < kCache;
  }
  // Of arithmetic and accesses at the same time.
  template <class Times>
  double together(double arithmetic) const {
    double const accesses = read * (cached ? Times::kCached : Times::kRead) + written * kWritten;
    return Times::kStart + std::pow(std::pow(arithmetic, 4) + std::pow(accesses, 4), 0.25);
  }
  double packed_time(int multiprocessors) const {
    double const shown = pixels * PackedTimes::kPixel, around = (all_pixels - pixels) * PackedTimes::kFill;
    return together<PackedTimes>((shown + around) / multiprocessors);
  }
  double stream_time(StreamPlan const& plan, int columns) const {
    double const steps = double(ceil_divide(columns, 64)), share = rows / all_rows;
    double const own_rows = double(ceil_divide(plan.rows, plan.warps)) * kStreamMostWarps;
    double const shown = StreamTimes::kRow + steps * StreamTimes::kStep, around = steps * StreamTimes::kFillStep;
    return together<StreamTimes>(own_rows * (share * shown + (1 - share) * around));
  }
};

// Of a call that both take.
inline bool streams_sooner(PreprocessArguments const& a, Device const& device) {
  ResizeWork const work(a);
  return work.stream_time(stream_plan(a, device), a.out_w) < work.packed_time(device.multiprocessors);
}

}  // namespace bridge
