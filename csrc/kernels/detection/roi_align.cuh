// The kernels of roi_align: a direct one, which takes every call, and one for each layout, which makes a table of a
// region's taps first, once for all channels that a block handles.
#pragma once

#include "kernels/detection/roi_align_direct.cuh"

namespace bridge {

constexpr int kRoiAlignResidents = 3;          // blocks a multiprocessor that registers must leave room for
constexpr int kRoiAlignAdaptiveTaps = 32;      // of a bin along an axis, where the region tells the number of samples
constexpr size_t kRoiAlignTable = 16 * 1024;   // bytes of shared memory
constexpr size_t kRoiAlignResult = 32 * 1024;  // of the results that the channels-last kernel transposes
constexpr int kRoiAlignChannels = 4;           // that a thread of the channels-first kernel takes at a time
constexpr int64_t kRoiAlignMaxParts = 65535;   // of the channels: a grid's limit along y

// ---- tables -----------------------------------------------------------------------------------

struct RoiTap {
  int pixel;  // along its axis
  float weight;
};

// In shared memory: of each bin along y, then along x, its number of taps and up to `capacity` taps.
struct RoiTable {
  RoiTap* taps;
  int* counts;
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
__device__ inline int roi_add_tap(RoiTap* taps, int count, int pixel, float weight) {
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

// ---- channels last ----------------------------------------------------------------------------

// N channels of one bin, which lie side by side. Four loads are on their way at once.
template <class T, int N>
__device__ void roi_align_lanes(RoiAlignArguments<T> const& a, RoiTable const& table, T const* map, int row, int column,
                                float (&sum)[N]) {
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

// ---- channels first ---------------------------------------------------------------------------

// One bin of kChannels channels, `step` apart; those from `channels` on are left out.
template <class T, int kChannels>
__device__ void roi_align_channels(RoiAlignArguments<T> const& a, RoiTable const& table, T const* map, int64_t step,
                                   int channels, int row, int column, float (&sum)[kChannels]) {
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

// The kernel of x's layout where its tables fit, unless the direct one is asked for.
template <class T>
cudaError_t launch_roi_align(RoiAlignArguments<T> const& a, bool direct, cudaStream_t stream) {
  if (a.count == 0 || a.channels == 0) return cudaSuccess;
  RoiAlignPlan const plan = a.channels_last ? roi_align_channels_last_plan(a) : roi_align_channels_first_plan(a);
  if (direct || plan.threads == 0) return launch_roi_align_direct(a, stream);
  return a.channels_last ? launch_roi_align_channels_last(a, plan, stream)
                         : launch_roi_align_channels_first(a, plan, stream);
}

}  // namespace bridge
