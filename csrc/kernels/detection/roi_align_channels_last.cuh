// roi_align of a feature map whose channels are innermost.
#pragma once

#include "kernels/detection/roi_align_table.cuh"

namespace bridge {

constexpr int kRoiAlignResidents = 3;          // blocks a multiprocessor that registers must leave room for
constexpr size_t kRoiAlignResult = 32 * 1024;  // of the results that the channels-last kernel transposes

// N channels of one bin, which lie side by side. Four loads are on their way at once.
template <class T, int N>
__device__ void roi_align_lanes(RoiAlignArguments<T> const& a, RoiTable const& table,
                                T const* map,  // [height, width, channels], of which N count
                                int row, int column, float (&sum)[N]) {
  constexpr int kAhead = 4;
  using Packet = Vec<T, N>;
  RoiTap const *const ys = table.row(row), *const xs = table.row(a.pooled_h + column);
  int const num_y = table.counts[row], num_x = table.counts[a.pooled_h + column];
  for (int iy = 0; iy < num_y; ++iy) {
    RoiTap const y = ys[iy];
    T const* const line = map + int64_t(y.pixel * a.width) * a.channels;
    for (int first = 0; first < num_x; first += kAhead) {
      Packet packet[kAhead];
      float weight[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < num_x) {
          RoiTap const x = xs[first + i];
          packet[i] = *reinterpret_cast<Packet const*>(line + int64_t(x.pixel) * a.channels);
          weight[i] = y.weight * x.weight;
        }
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i < num_x)
#pragma unroll
          for (int lane = 0; lane < N; ++lane) sum[lane] += weight[i] * to_float(packet[i].lane[lane]);
      }
    }
  }
}

// A block takes a region and some of its channels, N to a thread; results are turned in shared memory, where they lie
// as in y. Grid: x over regions, y over parts of the channels.
template <class T, int N>
__global__ void __launch_bounds__(kRoiAlignThreads, kRoiAlignResidents) roi_align_channels_last_kernel(
    RoiAlignArguments<T> a, RoiAlignPlan plan) {
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  T* const result = reinterpret_cast<T*>(memory + plan.table);  // [channels, bins]
  RoiTable const table(memory, a.pooled_h + a.pooled_w, plan.capacity);
  int64_t const first = blockIdx.y * plan.channels;
  int const bins = a.bins(), channels = static_cast<int>(min(plan.channels, int64_t(a.channels) - first)),
            groups = channels / N;
  for (int64_t roi = blockIdx.x; roi < a.count; roi += gridDim.x) {
    RoiRegion const region = roi_region(a, roi);
    if (!table.holds(region)) {
      roi_align_without_table(a, roi, first, first + channels);
      continue;
    }
    roi_fill_table(a, region, table);
    T const* const map = a.x + region.image * a.image_step() + first;
    for (int item = threadIdx.x; item < bins * groups; item += blockDim.x) {
      int const bin = item / groups, channel = (item - bin * groups) * N, row = bin / a.pooled_w;
      float sum[N] = {};
      roi_align_lanes<T, N>(a, table, map + channel, row, bin - row * a.pooled_w, sum);
#pragma unroll
      for (int lane = 0; lane < N; ++lane)
        result[(channel + lane) * bins + bin] = from_float<T>(sum[lane] * region.share);
    }
    __syncthreads();
    T* const out = a.y + (roi * a.channels + first) * bins;
    constexpr int kLanes = kAccessBytes / sizeof(T);
    int const size = channels * bins, packets = reinterpret_cast<uintptr_t>(out) % kAccessBytes ? 0 : size / kLanes;
    for (int i = threadIdx.x; i < packets; i += blockDim.x)
      reinterpret_cast<Vec<T, kLanes>*>(out)[i] = reinterpret_cast<Vec<T, kLanes> const*>(result)[i];
    for (int i = packets * kLanes + threadIdx.x; i < size; i += blockDim.x) out[i] = result[i];
    __syncthreads();
  }
}

template <class T>
bool roi_align_wide(RoiAlignArguments<T> const& a) {
  return aligned(a.x) && a.channels % (kAccessBytes / sizeof(T)) == 0;
}

// No threads: the kernel does not take the call.
template <class T>
RoiAlignPlan roi_align_channels_last_plan(RoiAlignArguments<T> const& a) {
  constexpr int64_t kWarp = 32;
  RoiAlignPlan plan{roi_align_capacity(a.sampling_ratio), 0, 0, 0, 0};
  plan.table = RoiTable::bytes(a.pooled_h + a.pooled_w, plan.capacity);
  plan.table = (plan.table + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
  int64_t const lanes = roi_align_wide(a) ? kAccessBytes / sizeof(T) : 1;
  int64_t const most = static_cast<int64_t>(kRoiAlignResult / (a.bins() * sizeof(T))) / lanes * lanes;
  if (plan.table > kRoiAlignTable || most == 0) return plan;
  int64_t const parts = ceil_divide(a.channels, most);
  plan.channels = ceil_divide(ceil_divide(a.channels, parts), lanes) * lanes;
  if (ceil_divide(a.channels, plan.channels) > kRoiAlignMaxParts) return plan;
  plan.shared = plan.table + plan.channels * a.bins() * sizeof(T);
  int64_t const items = a.bins() * (plan.channels / lanes), rounds = ceil_divide(items, kRoiAlignThreads);
  plan.threads =
      static_cast<unsigned>(ceil_divide(ceil_divide(items, rounds), kWarp) * kWarp);  // busy to the last round
  return plan;
}

template <class T>
cudaError_t launch_roi_align_channels_last(RoiAlignArguments<T> const& a, RoiAlignPlan const& plan,
                                           cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(std::min(a.count, kRoiAlignMaxGrid)),
                  static_cast<unsigned>(ceil_divide(a.channels, plan.channels)));
  auto kernel = roi_align_wide(a) ? roi_align_channels_last_kernel<T, kAccessBytes / sizeof(T)>
                                  : roi_align_channels_last_kernel<T, 1>;
  kernel<<<grid, plan.threads, plan.shared, stream>>>(a, plan);
  return cudaGetLastError();
}

}  // namespace bridge
