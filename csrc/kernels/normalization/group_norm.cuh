// group_norm: which kernels compute a call, and the one that takes every call.
#pragma once

#include "kernels/normalization/group_norm_channels_last.cuh"
#include "kernels/normalization/group_norm_held.cuh"

namespace bridge {

constexpr int kDirectThreads = 256;

// A block takes groups, value by value. What the other kernels are compared with, and what takes maps with more
// channels side by side than they do.
template <class T>
__global__ void __launch_bounds__(kDirectThreads) group_norm_direct_kernel(GroupNormArguments<T> a) {
  __shared__ Moments of_warps[kWarp];
  __shared__ Normal of_all;
  for (int64_t row = blockIdx.x; row < a.rows(); row += gridDim.x) {
    int const first_channel = static_cast<int>(row % a.groups) * a.depth();
    int64_t const image = row / a.groups * a.channels * a.places;
    auto const index = [&](unsigned i) {  // where a value of the group lies
      int64_t const channel = first_channel + i / a.places, place = i % a.places;
      return image + (a.channels_last ? place * a.channels + channel : channel * a.places + place);
    };
    unsigned const size = a.size(), count = stepped(threadIdx.x, size, kDirectThreads);
    MomentSums sums(count ? to_float(a.x[index(threadIdx.x)]) : 0.f);
    for (unsigned i = threadIdx.x; i < size; i += kDirectThreads) sums.add(to_float(a.x[index(i)]));
    Moments const moments = block_moments(sums.moments(count), of_warps);
    Normal const normal = to_all(normal_of(moments, a.eps), &of_all);
    for (unsigned i = threadIdx.x; i < size; i += kDirectThreads) {
      ChannelMap const map = channel_map(a, normal, first_channel + static_cast<int>(i / a.places));
      a.y[index(i)] = result_of<T>(to_float(a.x[index(i)]), map, a.activation);
    }
    __syncthreads();
  }
}

template <class T>
cudaError_t launch_group_norm_direct(GroupNormArguments<T> const& a, cudaStream_t stream) {
  auto const blocks = static_cast<unsigned>(std::min(a.rows(), kMaxGridX));
  group_norm_direct_kernel<<<blocks, kDirectThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

enum class GroupNormWay { kOwn, kDirect, kPasses };

template <class T, int kLanes>
cudaError_t launch_group_norm_lanes(GroupNormArguments<T> const& a, GroupNormWay way, Device const& device,
                                    Moments* workspace, cudaStream_t stream) {
  if (a.channels_last) return launch_group_norm_channels_last<T, kLanes>(a, device.multiprocessors, workspace, stream);
  bool const holds = way != GroupNormWay::kPasses || always_held(a.size());  // those have no scratch memory
  HeldPlan const plan = holds ? held_plan(a.rows(), ceil_divide(a.size(), kLanes), device) : HeldPlan{};
  if (plan.parts > 0) return launch_group_norm_held<T, kLanes>(a, plan, stream);
  if (always_held(a.size())) return cudaErrorInvalidConfiguration;  // more groups than a grid has blocks
  return launch_group_norm_passes<T, kLanes>(a, device.multiprocessors, workspace, stream);
}

template <class T>
cudaError_t launch_group_norm(GroupNormArguments<T> const& a, GroupNormWay way, Device const& device,
                              Moments* workspace, cudaStream_t stream) {
  constexpr int kLanes = kAccessBytes / sizeof(T);
  bool const direct = way == GroupNormWay::kDirect || (a.channels_last && a.channels > kChannelsLastMost);
  if (direct) return launch_group_norm_direct(a, stream);
  int const run = a.channels_last ? a.channels : a.size();
  if (run % kLanes == 0 && aligned(a.x) && aligned(a.y))
    return launch_group_norm_lanes<T, kLanes>(a, way, device, workspace, stream);
  return launch_group_norm_lanes<T, 1>(a, way, device, workspace, stream);
}

}  // namespace bridge
