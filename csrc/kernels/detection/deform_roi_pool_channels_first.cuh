// deform_roi_pool of a feature map in its usual layout. Bins that move apart are gathers, which L1 serves a line at a
// time: what a region reads is copied into shared memory first, with the channels innermost, and gathered from there.
#pragma once

#include <climits>

#include "kernels/detection/deform_roi_pool_tile.cuh"
#include "kernels/detection/roi_align_channels_first.cuh"

namespace bridge {

constexpr int kDeformRoiStagedThreads = 256, kDeformRoiResidents = 4;
constexpr size_t kDeformRoiTable = 24 * 1024, kDeformRoiShared = 48 * 1024;  // bytes of shared memory: at most

struct DeformRoiPlan {
  int capacity, packets;  // of the table, and of the tile
  int channels;           // of a block
  size_t table, shared;   // bytes; none: the kernel does not take the call

  // A block's channels: from first() up to end().
  __device__ int first() const { return blockIdx.y * channels; }
  __device__ int end(int all) const { return min(first() + channels, all); }
};

// The axes of a region's bins as they moved: of each along y, and then along x. finite: what moved it is.
template <class T>
__device__ RoiAxis deform_axis(DeformRoiPoolArguments<T> const& a, int64_t roi, RoiRegion const& region, int axis_bin,
                               bool& finite) {
  int const bins = a.bins();
  bool const is_row = axis_bin < bins;
  RoiAxis axis = is_row ? region.y : region.x;
  float const low = roi_value(a, roi * 5 + 1 + is_row), high = roi_value(a, roi * 5 + 3 + is_row);
  float const share = a.share(roi, is_row, is_row ? axis_bin : axis_bin - bins);
  finite = moved(axis, share, low, high, a.spatial_scale);
  return axis;
}

// Fills the table, and finds the pixels that bins read. One that an offset moved that is not finite has -1 taps. The
// whole block calls it.
template <class T>
__device__ void deform_fill_table(DeformRoiPoolArguments<T> const& a, int64_t roi, RoiTable const& table,
                                  DeformRoiRegion& shared) {
  int const bins = a.bins();
  for (int i = threadIdx.x; i < 2 * bins; i += blockDim.x) {
    bool finite;
    RoiAxis const axis = deform_axis(a, roi, shared.region, i, finite);
    roi_fill_taps(table, i, axis, i < bins ? i / a.pooled_w : (i - bins) % a.pooled_w);
    int first = INT_MAX, last = -1;
    for (int tap = 0; tap < table.counts[i]; ++tap) {
      first = min(first, table.row(i)[tap].pixel), last = max(last, table.row(i)[tap].pixel);
    }
    atomicMin(i < bins ? &shared.top : &shared.left, first);
    atomicMax(i < bins ? &shared.bottom : &shared.right, last);
    if (!finite) table.counts[i] = -1;
  }
  __syncthreads();
}

template <class T, int N>
__device__ void deform_store(DeformRoiPoolArguments<T> const& a, int64_t roi, int channel, int bin, float share,
                             float const (&sums)[N]) {
  T* const y = a.y + (roi * a.channels + channel) * a.bins();
#pragma unroll
  for (int lane = 0; lane < N; ++lane)
    if (channel + lane < a.channels) y[unsigned(bin + lane * a.bins())] = from_float<T>(sums[lane] * share);
}

// A sum's share in the mean of a bin; NaN where its offset is not finite.
__device__ inline float deform_share(DeformRoiRegion const& shared, RoiTable const& table, int row, int column) {
  return min(table.counts[row], table.counts[column]) < 0 ? nanf("") : shared.region.share;
}

// A block's channels of a region that the table cannot hold, or of no image. starts: in shared memory, of each bin
// along y and then along x.
template <class T>
__device__ void deform_without_table(DeformRoiPoolArguments<T> const& a, int64_t roi, DeformRoiRegion const& shared,
                                     float* starts, DeformRoiPlan const& plan) {
  int const bins = a.bins();
  for (int i = threadIdx.x; i < 2 * bins; i += blockDim.x) {
    bool finite;
    float const start = deform_axis(a, roi, shared.region, i, finite).start;
    starts[i] = finite ? start : nanf("");
  }
  __syncthreads();
  int const first = plan.first(), end = plan.end(a.channels);
  for (int i = threadIdx.x; i < (end - first) * bins; i += blockDim.x) {
    int const channel = i / bins, bin = i - channel * bins;
    RoiRegion region = shared.region;
    region.y.start = starts[bin], region.x.start = starts[bins + bin];
    if (isnan(region.y.start) || isnan(region.x.start)) region.image = -1;
    float const value = roi_align_value(a, region, first + channel, bin);
    a.y[(roi * a.channels + first + channel) * bins + bin] = from_float<T>(value);
  }
}

// The same of a region that the tile cannot hold: kLanes channels of a bin at a time.
template <class Taps, int kLanes, class T>
__device__ void deform_without_tile(DeformRoiPoolArguments<T> const& a, int64_t roi, RoiTable const& table,
                                    DeformRoiRegion const& shared, DeformRoiPlan const& plan) {
  int const first = plan.first(), end = plan.end(a.channels);
  T const* const map = a.x + shared.region.image * a.image_step();
  int const bins = a.bins(), items = (end - first + kLanes - 1) / kLanes * bins;
  for (int i = threadIdx.x; i < items; i += blockDim.x) {
    int const run = i / bins, bin = i - run * bins, channel = first + run * kLanes;
    float sums[kLanes] = {};
    Taps(table, a.width, bin, bins + bin).add(map + channel * a.plane(), a.plane(), end - channel, sums);
    deform_store(a, roi, channel, bin, deform_share(shared, table, bin, bins + bin), sums);
  }
}

// A block takes a region and some of its channels, as many groups of them at a time as the tile holds. Grid: x over
// regions, y over parts of the channels. kRun: pixels that are read at once.
template <class T, int kRun>
__global__ void __launch_bounds__(kDeformRoiStagedThreads, kDeformRoiResidents) deform_roi_pool_channels_first_kernel(
    DeformRoiPoolArguments<T> a, DeformRoiPlan plan) {
  constexpr int N = kDeformRoiPacket<T>;
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  __shared__ DeformRoiRegion shared;
  auto* const tile = reinterpret_cast<Vec<T, N>*>(memory + plan.table);
  int const bins = a.bins();
  RoiTable const table(memory, 2 * bins, plan.capacity);
  if (threadIdx.x == 0) shared = {roi_region(a, blockIdx.x), INT_MAX, INT_MAX, -1, -1};
  __syncthreads();
  if (!table.holds(shared.region)) {
    return deform_without_table(a, blockIdx.x, shared, reinterpret_cast<float*>(memory), plan);
  }
  deform_fill_table(a, blockIdx.x, table, shared);
  int const first = plan.first(), groups = (plan.end(a.channels) - first + N - 1) / N;
  if (threadIdx.x == 0) shared.share(groups, plan.packets, kRun);
  __syncthreads();
  if (shared.at_once == 0) {
    return table.capacity <= kRoiAlignFewTaps + 1
               ? deform_without_tile<RoiFewTaps, 2>(a, blockIdx.x, table, shared, plan)
               : deform_without_tile<RoiTableTaps, 4>(a, blockIdx.x, table, shared, plan);
  }
  for (int group = 0; group < groups; group += shared.at_once) {
    int const number = min(shared.at_once, groups - group);
    if (number > 1)
      deform_stage<kRun, 2>(a, shared, first + group * N, number, tile);
    else
      deform_stage<kRun, 1>(a, shared, first + group * N, number, tile);
    __syncthreads();
    for (int i = threadIdx.x; i < min(shared.at_once, groups - group) * bins; i += blockDim.x) {
      int const own = i / bins, bin = i - own * bins;
      float sums[N] = {};
      deform_add_staged(shared, table, bin, bins + bin, tile + own * shared.pixels, sums);
      deform_store(a, blockIdx.x, first + (group + own) * N, bin, deform_share(shared, table, bin, bins + bin), sums);
    }
    __syncthreads();
  }
}

// Of the table, such that neighbouring bins begin in banks of their own: odd. 0: it would hold too few taps.
template <class T>
int deform_roi_capacity(DeformRoiPoolArguments<T> const& a) {
  constexpr int kFewSamples = 4;  // of an adaptive grid along an axis
  bool const adaptive = a.sampling_ratio <= 0;
  int64_t const taps = (int64_t(kDeformRoiTable / (2 * a.bins())) - int64_t(sizeof(int))) / int64_t(sizeof(RoiTap)),
                samples = adaptive ? 2 * int64_t(std::max(a.height, a.width)) + 8 : a.sampling_ratio;
  if (taps < 2 * (adaptive ? kFewSamples : samples) + 1) return 0;
  return static_cast<int>(std::min(taps - 1, 2 * samples) / 2 * 2 + 1);
}

template <class T>
DeformRoiPlan deform_roi_plan(DeformRoiPoolArguments<T> const& a, int multiprocessors) {
  constexpr int64_t N = kDeformRoiPacket<T>;
  DeformRoiPlan plan{deform_roi_capacity(a), 0, 0, 0, 0};
  if (plan.capacity == 0 || a.count > kMaxGridX) return plan;
  plan.table = ceil_divide(RoiTable::bytes(2 * a.bins(), plan.capacity), kAccessBytes) * kAccessBytes;
  int64_t const least = std::max(roi_align_least_channels(a, 2 * multiprocessors), ceil_divide(a.channels, kMaxGridY)),
                groups = ceil_divide(std::min(least, int64_t(a.channels)), N),
                most = (kDeformRoiShared - plan.table - sizeof(DeformRoiRegion)) / kAccessBytes;
  plan.channels = static_cast<int>(groups * N);
  plan.packets = static_cast<int>(std::min(most, groups * a.plane()));
  plan.shared = plan.table + plan.packets * kAccessBytes;
  return plan;
}

template <class T>
cudaError_t launch_deform_roi_pool_channels_first(DeformRoiPoolArguments<T> const& a, DeformRoiPlan const& plan,
                                                  cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(a.count), static_cast<unsigned>(ceil_divide(a.channels, plan.channels)));
  bool const pairs = a.width % 2 == 0 && aligned(a.x, 2 * sizeof(T));
  auto const kernel = pairs ? deform_roi_pool_channels_first_kernel<T, 2> : deform_roi_pool_channels_first_kernel<T, 1>;
  kernel<<<grid, kDeformRoiStagedThreads, plan.shared, stream>>>(a, plan);
  return cudaGetLastError();
}

}  // namespace bridge
