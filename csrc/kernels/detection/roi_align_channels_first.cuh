// roi_align of a feature map in its usual layout.
#pragma once

#include "kernels/detection/roi_align_table.cuh"

namespace bridge {

constexpr int kRoiAlignChannels = 4;  // that a thread of the channels-first kernel takes at a time

constexpr int kRoiAlignFewTaps = 4;  // of a bin along an axis, such that registers hold them

// The taps of a bin, in a region's table.
struct RoiTableTaps {
  RoiTap const *ys, *xs;
  int rows, columns, width;

  // column_bin: the bin along x, behind all those along y.
  __device__ RoiTableTaps(RoiTable const& table, int width, int row, int column_bin)
      : ys(table.row(row)),
        xs(table.row(column_bin)),
        rows(table.counts[row]),
        columns(table.counts[column_bin]),
        width(width) {}

  // Adds up to kChannels channels: those from `channels` on are left out.
  template <class T, int kChannels>
  __device__ void add(T const* map,  // [channels, height, width], channels `step` apart
                      int64_t step, int channels, float (&sum)[kChannels]) const {
    T const* maps[kChannels];
#pragma unroll
    for (int i = 0; i < kChannels; ++i) maps[i] = map + (i < channels ? i : 0) * step;  // read again, not used
    for (int iy = 0; iy < rows; ++iy) {
      RoiTap const y = ys[iy];
      int const line = y.pixel * width;
#pragma unroll 2
      for (int ix = 0; ix < columns; ++ix) {
        RoiTap const x = xs[ix];
        float const weight = y.weight * x.weight;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) sum[i] += weight * to_float(maps[i][line + x.pixel]);
      }
    }
  }
};

// The same where they are few: a thread has those along x in registers, and a row's pixels of all channels are on their
// way at once.
struct RoiFewTaps {
  RoiTap const* ys;
  int rows, columns, width, pixels[kRoiAlignFewTaps];
  float weights[kRoiAlignFewTaps];

  __device__ RoiFewTaps(RoiTable const& table, int width, int row, int column_bin)
      : ys(table.row(row)), rows(table.counts[row]), columns(table.counts[column_bin]), width(width) {
#pragma unroll
    for (int i = 0; i < kRoiAlignFewTaps; ++i) {
      RoiTap const x = i < columns ? table.row(column_bin)[i] : RoiTap{};
      pixels[i] = x.pixel, weights[i] = x.weight;
    }
  }

  template <class T, int kChannels>
  __device__ void add(T const* map, int64_t step, int channels, float (&sum)[kChannels]) const {
    T const* maps[kChannels];
#pragma unroll
    for (int i = 0; i < kChannels; ++i) maps[i] = map + (i < channels ? i : 0) * step;  // read again, not used
#pragma unroll 1
    for (int iy = 0; iy < rows; ++iy) {
      RoiTap const y = ys[iy];
      int const line = y.pixel * width;
      T value[kChannels][kRoiAlignFewTaps];
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
#pragma unroll
        for (int ix = 0; ix < kRoiAlignFewTaps; ++ix)
          if (ix < columns) value[i][ix] = maps[i][line + pixels[ix]];
      }
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        float of_line = 0.f;
#pragma unroll
        for (int ix = 0; ix < kRoiAlignFewTaps; ++ix)
          if (ix < columns) of_line += weights[ix] * to_float(value[i][ix]);
        sum[i] += y.weight * of_line;
      }
    }
  }
};

// A block takes a region and some of its channels; a thread keeps its bin, and takes kChannels channels of it at a
// time, so that taps are read once for them. Neighbouring threads have neighbouring bins, and write side by side.
// Grid: x over regions, y over parts of the channels.
template <class Taps, class T>
__global__ void __launch_bounds__(kRoiAlignThreads) roi_align_channels_first_kernel(RoiAlignArguments<T> a,
                                                                                    RoiAlignPlan plan) {
  constexpr int kChannels = kRoiAlignChannels;
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  RoiTable const table(memory, a.pooled_h + a.pooled_w, plan.capacity);
  int const bins = a.bins(), span = min(bins, kRoiAlignThreads), lines = blockDim.x / span;
  int const place = threadIdx.x % span, own = threadIdx.x / span;
  int64_t const first = blockIdx.y * plan.channels, end = min(first + plan.channels, int64_t(a.channels));
  for (int64_t roi = blockIdx.x; roi < a.count; roi += gridDim.x) {
    RoiRegion const region = roi_region(a, roi);
    if (!table.holds(region)) {
      roi_align_without_table(a, roi, first, end);
      continue;
    }
    roi_fill_table(a, region, table);
    T const* const map = a.x + region.image * a.image_step();
    for (int bin = place; bin < bins; bin += span) {
      int const row = bin / a.pooled_w, column = bin - row * a.pooled_w;
      Taps const taps(table, a.width, row, a.pooled_h + column);
      T* const out = a.y + roi * a.channels * bins + bin;
      for (int64_t channel = first + own; channel < end; channel += kChannels * lines) {
        float sum[kChannels] = {};
        int const channels = static_cast<int>(min((end - channel + lines - 1) / lines, int64_t(kChannels)));
        taps.add(map + channel * a.plane(), lines * a.plane(), channels, sum);
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          if (i < channels) out[(channel + i * lines) * bins] = from_float<T>(sum[i] * region.share);
        }
      }
    }
    __syncthreads();
  }
}

// Of a block, for which it makes a table: as many as leave each multiprocessor some blocks.
template <class T>
int64_t roi_align_least_channels(RoiAlignArguments<T> const& a, int multiprocessors) {
  auto const blocks = [&](int channels) { return a.count * ceil_divide(a.channels, channels); };
  return blocks(64) >= 8 * multiprocessors ? 64 : blocks(32) >= 2 * multiprocessors ? 32 : 16;
}

template <class T>
RoiAlignPlan roi_align_channels_first_plan(RoiAlignArguments<T> const& a, int multiprocessors) {
  RoiAlignPlan plan{roi_align_capacity(a.sampling_ratio), 0, 0, 0, 0};
  plan.table = plan.shared = RoiTable::bytes(a.pooled_h + a.pooled_w, plan.capacity);
  if (plan.table > kRoiAlignTable) return plan;
  int const span = std::min(a.bins(), kRoiAlignThreads), lines = kRoiAlignThreads / span;
  int64_t const at_once = kRoiAlignChannels * lines, most_parts = ceil_divide(a.channels, kRoiAlignMaxParts),
                least = std::max<int64_t>(roi_align_least_channels(a, multiprocessors), most_parts);
  plan.channels = ceil_divide(least, at_once) * at_once;
  plan.threads = static_cast<unsigned>(lines * span);
  return plan;
}

template <class T>
cudaError_t launch_roi_align_channels_first(RoiAlignArguments<T> const& a, RoiAlignPlan const& plan,
                                            cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(std::min(a.count, kRoiAlignMaxGrid)),
                  static_cast<unsigned>(ceil_divide(a.channels, plan.channels)));
  auto const kernel = plan.capacity <= kRoiAlignFewTaps ? roi_align_channels_first_kernel<RoiFewTaps, T>
                                                        : roi_align_channels_first_kernel<RoiTableTaps, T>;
  kernel<<<grid, plan.threads, plan.shared, stream>>>(a, plan);
  return cudaGetLastError();
}

}  // namespace bridge
