// A region's taps as a table in shared memory, made once for all channels that a block handles.
#pragma once

#include "kernels/detection/roi_align_direct.cuh"

namespace bridge {

constexpr int kRoiAlignAdaptiveTaps = 32;     // of a bin along an axis, where the region tells the number of samples
constexpr size_t kRoiAlignTable = 16 * 1024;  // bytes of shared memory
constexpr int64_t kRoiAlignMaxParts = 65535;  // of the channels: a grid's limit along y

struct RoiTap {
  int pixel;  // along its axis
  float weight;
};

// In shared memory, of each bin along y and then along x.
struct RoiTable {
  RoiTap* taps;  // [pooled_h + pooled_w, capacity]
  int* counts;   // [pooled_h + pooled_w], of taps
  int capacity;

  static __host__ __device__ size_t bytes(int axis_bins, int capacity) {
    return (sizeof(RoiTap) * capacity + sizeof(int)) * axis_bins;
  }
  __device__ RoiTable(void* memory, int axis_bins, int capacity)
      : taps(static_cast<RoiTap*>(memory)),
        counts(reinterpret_cast<int*>(taps + axis_bins * capacity)),
        capacity(capacity) {}
  __device__ bool holds(RoiRegion const& region) const {
    return region.image >= 0 && 2 * max(region.y.longest(), region.x.longest()) <= capacity;
  }
  __device__ RoiTap const* row(int axis_bin) const { return taps + axis_bin * capacity; }
};

// Adds weight to the tap of a pixel among the last two, which are those of the sample before, or appends one.
__device__ inline int roi_add_tap(RoiTap* taps,  // [capacity]
                                  int count, int pixel, float weight) {
  if (weight == 0.f) return count;
  for (int i = max(count - 2, 0); i < count; ++i) {
    if (taps[i].pixel == pixel) {
      taps[i].weight += weight;
      return count;
    }
  }
  taps[count] = {pixel, weight};
  return count + 1;
}

__device__ inline void roi_fill_taps(RoiTable const& table, int axis_bin, RoiAxis const& axis, int place) {
  RoiTap* const taps = table.taps + axis_bin * table.capacity;
  float const first = axis.first(place);
  int const samples = axis.count(place);
  int count = 0;
  for (int i = 0; i < samples; ++i) {
    RoiSample const sample = roi_sample(axis.position(place, first + float(i)), axis.extent);
    count = roi_add_tap(taps, count, sample.low, sample.low_weight);
    count = roi_add_tap(taps, count, sample.low + 1, sample.high_weight);
  }
  table.counts[axis_bin] = count;
}

// Fills the table; the whole block calls it.
template <class T>
__device__ void roi_fill_table(RoiAlignArguments<T> const& a, RoiRegion const& region, RoiTable const& table) {
  for (int i = threadIdx.x; i < a.pooled_h + a.pooled_w; i += blockDim.x) {
    bool const is_row = i < a.pooled_h;
    RoiAxis axis = region.x;
    if (is_row) axis = region.y;  // copied: a choice of references would put both into local memory
    roi_fill_taps(table, i, axis, is_row ? i : i - a.pooled_h);
  }
  __syncthreads();
}

// A region that the table cannot hold, or of no image: channels [first, end), by the whole block.
template <class T>
__device__ void roi_align_without_table(RoiAlignArguments<T> const& a, int64_t roi, int64_t first, int64_t end) {
  RoiRegion const region = roi_region(a, roi);
  int const bins = a.bins();
  for (int64_t i = first * bins + threadIdx.x; i < end * bins; i += blockDim.x)
    a.y[roi * a.channels * bins + i] = from_float<T>(roi_align_value(a, region, i / bins, static_cast<int>(i % bins)));
}

// How many channels a block handles, and how its threads share them.
struct RoiAlignPlan {
  int capacity;          // of the table
  int64_t channels;      // of a block
  unsigned threads;      // of a block
  size_t table, shared;  // bytes
};

inline int roi_align_capacity(int sampling_ratio) {
  return sampling_ratio > 0 ? 2 * std::min(sampling_ratio, 1 << 12) : kRoiAlignAdaptiveTaps;
}

}  // namespace bridge
