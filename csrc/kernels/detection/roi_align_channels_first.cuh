// roi_align of a feature map in its usual layout.
#pragma once

#include "kernels/detection/roi_align_table.cuh"

namespace bridge {

constexpr int kRoiAlignChannels = 4;  // that a thread of the channels-first kernel takes at a time

// One bin of up to kChannels channels: those from `channels` on are left out.
template <class T, int kChannels>
__device__ void roi_align_channels(RoiAlignArguments<T> const& a, RoiTable const& table,
                                   T const* map,  // [channels, height, width], channels `step` apart
                                   int64_t step, int channels, int row, int column, float (&sum)[kChannels]) {
  RoiTap const *const ys = table.row(row), *const xs = table.row(a.pooled_h + column);
  int const num_y = table.counts[row], num_x = table.counts[a.pooled_h + column];
  T const* maps[kChannels];
#pragma unroll
  for (int i = 0; i < kChannels; ++i) maps[i] = map + (i < channels ? i : 0) * step;  // read again, not used
  for (int iy = 0; iy < num_y; ++iy) {
    RoiTap const y = ys[iy];
    int const line = y.pixel * a.width;
#pragma unroll 2
    for (int ix = 0; ix < num_x; ++ix) {
      RoiTap const x = xs[ix];
      float const weight = y.weight * x.weight;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) sum[i] += weight * to_float(maps[i][line + x.pixel]);
    }
  }
}

// A block takes a region and some of its channels; a thread keeps its bin, and takes kChannels channels of it at a
// time, so that taps are read once for them. Neighbouring threads have neighbouring bins, and write side by side.
// Grid: x over regions, y over parts of the channels.
template <class T>
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
      T* const out = a.y + roi * a.channels * bins + bin;
      for (int64_t channel = first + own; channel < end; channel += kChannels * lines) {
        float sum[kChannels] = {};
        int const channels = static_cast<int>(min((end - channel + lines - 1) / lines, int64_t(kChannels)));
        roi_align_channels(a, table, map + channel * a.plane(), lines * a.plane(), channels, row, column, sum);
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          if (i < channels) out[(channel + i * lines) * bins] = from_float<T>(sum[i] * region.share);
        }
      }
    }
    __syncthreads();
  }
}

template <class T>
RoiAlignPlan roi_align_channels_first_plan(RoiAlignArguments<T> const& a) {
  constexpr int kLeast = 64;  // channels of a block, for which it makes a table
  RoiAlignPlan plan{roi_align_capacity(a.sampling_ratio), 0, 0, 0, 0};
  plan.table = plan.shared = RoiTable::bytes(a.pooled_h + a.pooled_w, plan.capacity);
  if (plan.table > kRoiAlignTable) return plan;
  int const span = std::min(a.bins(), kRoiAlignThreads), lines = kRoiAlignThreads / span;
  int64_t const at_once = kRoiAlignChannels * lines,
                least = std::max<int64_t>(kLeast, ceil_divide(a.channels, kRoiAlignMaxParts));
  plan.channels = ceil_divide(least, at_once) * at_once;
  plan.threads = static_cast<unsigned>(lines * span);
  return plan;
}

template <class T>
cudaError_t launch_roi_align_channels_first(RoiAlignArguments<T> const& a, RoiAlignPlan const& plan,
                                            cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(std::min(a.count, kRoiAlignMaxGrid)),
                  static_cast<unsigned>(ceil_divide(a.channels, plan.channels)));
  roi_align_channels_first_kernel<<<grid, plan.threads, plan.shared, stream>>>(a, plan);
  return cudaGetLastError();
}

}  // namespace bridge
