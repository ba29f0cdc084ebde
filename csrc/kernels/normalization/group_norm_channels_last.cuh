// group_norm of maps whose channels lie side by side, in two launches: a block takes some places of an image with all
// channels, and a thread the same channels at each of them. Where there are many parts, a launch between merges them.
#pragma once

#include "kernels/normalization/group_norm_passes.cuh"

namespace bridge {

constexpr int kChannelsLastMost = 4096;    // channels, whose moments fit 48 KB of shared memory
constexpr int kResultUnroll = 2;           // with the factors of all lanes in registers
constexpr int kChannelsLastMergedIn = 32;  // most parts that the second launch merges by itself

// The threads of a block as places times runs of channels; of more runs than threads, strips follow each other.
struct Columns {
  int runs, width, height;

  __device__ Columns(int channels, int lanes)
      : runs(channels / lanes), width(min(runs, kPassThreads)), height(kPassThreads / width) {}
  __device__ int strips() const { return (runs + width - 1) / width; }
  __device__ int row() const { return static_cast<int>(threadIdx.x) / width; }
  // The run of this thread in a strip; -1: it has none.
  __device__ int run(int strip) const {
    int const run = strip * width + static_cast<int>(threadIdx.x) % width;
    return row() < height && run < runs ? run : -1;
  }
};

template <class T, int kLanes>
__device__ void sum_places(T const* x,  // [places, channels], from the run's first channel on
                           int channels, Span span, int row, int height, MomentSums (&sums)[kLanes]) {
  using Packet = Vec<T, kLanes>;
  for (unsigned place = span.begin + row; place < span.end; place += kPassUnroll * height) {
    Packet packets[kPassUnroll];
#pragma unroll
    for (int k = 0; k < kPassUnroll; ++k)
      if (place + k * height < span.end)
        packets[k] = *reinterpret_cast<Packet const*>(x + int64_t(place + k * height) * channels);
#pragma unroll
    for (int k = 0; k < kPassUnroll; ++k) {
      if (place + k * height >= span.end) continue;
      forget(packets[k]);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sums[lane].add(to_float(packets[k].lane[lane]));
    }
  }
}

// Merges what the rows of threads found of each channel, by groups, a warp each.
template <class T>
__device__ void write_groups(GroupNormArguments<T> const& a, Moments const* of_channels,  // [rows, channels]
                             int rows, Moments* found,                                    // [groups, parts]
                             int parts) {
  for (int group = threadIdx.x / kWarp; group < a.groups; group += kPassThreads / kWarp) {
    Moments own{0.f, 0.f, 0.f};
    for (int i = threadIdx.x % kWarp; i < rows * a.depth(); i += kWarp)
      own = merged(own, of_channels[i / a.depth() * a.channels + group * a.depth() + i % a.depth()]);
    own = warp_moments(own);
    if (threadIdx.x % kWarp == 0) found[int64_t(group) * parts] = own;
  }
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kPassThreads, 2) group_norm_channels_last_moments_kernel(
    GroupNormArguments<T> a,
    Moments* __restrict__ found,  // [batch, groups, parts]
    int parts) {
  extern __shared__ Moments of_channels[];  // [rows of threads, channels]
  Columns const columns(a.channels, kLanes);
  int64_t const image = blockIdx.x / parts;
  int const part = blockIdx.x % parts, row = columns.row();
  Span const span = span_of(part, parts, a.places);
  for (int strip = 0; strip < columns.strips(); ++strip) {
    int const run = columns.run(strip);
    if (run < 0) continue;
    T const* const x = a.x + image * a.channels * a.places + run * kLanes;
    unsigned const count = stepped(span.begin + row, span.end, columns.height);
    MomentSums sums[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      sums[lane] = MomentSums(count ? to_float(x[int64_t(span.begin + row) * a.channels + lane]) : 0.f);
    sum_places<T, kLanes>(x, a.channels, span, row, columns.height, sums);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      of_channels[row * a.channels + run * kLanes + lane] = sums[lane].moments(count);
  }
  __syncthreads();
  write_groups(a, of_channels, columns.height, found + image * a.groups * parts + part, parts);
}

// [rows, parts] to [rows]; a warp a row.
__global__ void group_norm_merge_kernel(Moments const* __restrict__ found, Moments* __restrict__ all, int parts) {
  Moments const moments = moments_of_parts(found + int64_t(blockIdx.x) * parts, parts);
  if (threadIdx.x == 0) all[blockIdx.x] = moments;
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kPassThreads, 2) group_norm_channels_last_results_kernel(
    GroupNormArguments<T> a,
    Moments const* __restrict__ found,  // [batch, groups, found_parts]
    int found_parts, int parts) {
  using Packet = Vec<T, kLanes>;
  extern __shared__ Normal normals[];  // [groups]
  Columns const columns(a.channels, kLanes);
  unsigned const block = gridDim.x - 1 - blockIdx.x;
  int64_t const image = block / parts;
  for (int group = threadIdx.x / kWarp; group < a.groups; group += kPassThreads / kWarp) {
    Moments const moments = moments_of_parts(found + (image * a.groups + group) * found_parts, found_parts);
    if (threadIdx.x % kWarp == 0) normals[group] = normal_of(moments, a.eps);
  }
  __syncthreads();
  Span const span = span_of(block % parts, parts, a.places);
  for (int strip = 0; strip < columns.strips(); ++strip) {
    int const run = columns.run(strip);
    if (run < 0) continue;
    ChannelMap maps[kLanes];
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      maps[lane] = channel_map(a, normals[(run * kLanes + lane) / a.depth()], run * kLanes + lane);
    int64_t const first = image * a.channels * a.places + run * kLanes;
    for (unsigned place = span.begin + columns.row(); place < span.end; place += kResultUnroll * columns.height) {
      Packet packets[kResultUnroll];
#pragma unroll
      for (int k = 0; k < kResultUnroll; ++k)
        if (place + k * columns.height < span.end)
          packets[k] = *reinterpret_cast<Packet const*>(a.x + first + int64_t(place + k * columns.height) * a.channels);
#pragma unroll
      for (int k = 0; k < kResultUnroll; ++k) {
        if (place + k * columns.height >= span.end) continue;
#pragma unroll
        for (int lane = 0; lane < kLanes; ++lane)
          packets[k].lane[lane] = result_of<T>(to_float(packets[k].lane[lane]), maps[lane], a.activation);
        *reinterpret_cast<Packet*>(a.y + first + int64_t(place + k * columns.height) * a.channels) = packets[k];
      }
    }
  }
}

template <class T, int kLanes>
cudaError_t launch_group_norm_channels_last(GroupNormArguments<T> const& a, int multiprocessors, Moments* workspace,
                                            cudaStream_t stream) {
  int64_t const runs = a.channels / kLanes, width = std::min<int64_t>(runs, kPassThreads);
  int64_t const height = kPassThreads / width;
  int const parts = pass_parts(a.batch, ceil_divide(a.places, height), multiprocessors);
  if (a.batch * parts > kMaxGridX || a.rows() > kMaxGridX) return cudaErrorInvalidConfiguration;
  auto const blocks = static_cast<unsigned>(a.batch * parts);
  size_t const of_channels = sizeof(Moments) * height * a.channels;
  group_norm_channels_last_moments_kernel<T, kLanes>
      <<<blocks, kPassThreads, of_channels, stream>>>(a, workspace, parts);
  int found_parts = parts;
  if (parts > kChannelsLastMergedIn) {
    Moments* const all = workspace + a.rows() * parts;
    group_norm_merge_kernel<<<static_cast<unsigned>(a.rows()), kWarp, 0, stream>>>(workspace, all, parts);
    workspace = all, found_parts = 1;
  }
  size_t const of_groups = sizeof(Normal) * a.groups;
  group_norm_channels_last_results_kernel<T, kLanes>
      <<<blocks, kPassThreads, of_groups, stream>>>(a, workspace, found_parts, parts);
  return cudaGetLastError();
}

}  // namespace bridge
