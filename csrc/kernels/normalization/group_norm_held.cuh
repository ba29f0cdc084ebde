// group_norm in one launch: a block holds a group in its registers, or, from compute capability 9.0 on, a cluster of
// blocks does. Each value is read once.
#pragma once

#include <cooperative_groups.h>

#include <algorithm>

#include "core/device.h"
#include "kernels/normalization/group_norm_arguments.cuh"

namespace bridge {

constexpr int kHeldThreads = 1024, kHeldPackets = 8;
constexpr int kHeldParts = 8;  // blocks of a cluster, on any GPU that has them

// In the first thread of every block, those of the cluster, by way of its blocks' shared memory.
__device__ inline Moments cluster_moments(Moments own, Moments* shared) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  auto const cluster = cooperative_groups::this_cluster();
  auto const parts = static_cast<int>(cluster.num_blocks());
  if (parts == 1) return own;
  if (threadIdx.x == 0) *shared = own;
  cluster.sync();
  if (threadIdx.x == 0) {
    own = *cluster.map_shared_rank(shared, 0);
    for (int part = 1; part < parts; ++part) own = merged(own, *cluster.map_shared_rank(shared, part));
  }
  cluster.sync();  // a block that ends takes its shared memory along
#endif
  return own;
}

// Blocks: parts of a group first, then groups, then images. packets: of a part, in 16 bytes or single values.
template <class T, int kLanes, int kPackets>
__global__ void __launch_bounds__(kHeldThreads) group_norm_held_kernel(GroupNormArguments<T> a, int parts,
                                                                       unsigned packets) {
  using Packet = Vec<T, kLanes>;
  __shared__ Moments of_warps[kWarp], of_block;
  __shared__ Normal of_all;
  int64_t const row = blockIdx.x / parts;
  unsigned const all = a.size() / kLanes, begin = blockIdx.x % parts * packets, end = min(begin + packets, all);
  auto const* x = reinterpret_cast<Packet const*>(a.x + row * a.size());
  auto* y = reinterpret_cast<Packet*>(a.y + row * a.size());

  Packet held[kPackets];
#pragma unroll
  for (int k = 0; k < kPackets; ++k) {
    unsigned const i = begin + threadIdx.x + k * blockDim.x;
    if (i < end) held[k] = x[i];
  }
  unsigned const count = stepped(begin + threadIdx.x, end, blockDim.x);
  MomentSums sums(count ? to_float(held[0].lane[0]) : 0.f);
#pragma unroll
  for (int k = 0; k < kPackets; ++k) {
    if (k >= count) continue;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sums.add(to_float(held[k].lane[lane]));
  }
  Moments const moments = cluster_moments(block_moments(sums.moments(count * kLanes), of_warps), &of_block);
  Normal const normal = to_all(normal_of(moments, a.eps), &of_all);
  int const first_channel = static_cast<int>(row % a.groups) * a.depth();
#pragma unroll
  for (int k = 0; k < kPackets; ++k) {
    unsigned const i = begin + threadIdx.x + k * blockDim.x;
    if (i >= end) continue;
    forget(held[k]);
    y[i] = normalised<T, kLanes>(a, held[k], normal, first_channel, i * kLanes);
  }
}

// Whether a block holds a group of so many values on any GPU, even value by value.
inline bool always_held(int64_t values) { return values <= int64_t(kHeldThreads) * kHeldPackets; }

struct HeldPlan {
  int parts = 0;  // 0: a group is too large to be held
  unsigned packets = 0, threads = 0;
};

// Enough blocks for the GPU where groups are few, and some packets a thread, whose loads overlap.
inline HeldPlan held_plan(int64_t rows, int64_t packets, Device const& device) {
  constexpr int64_t kMost = int64_t(kHeldThreads) * kHeldPackets, kFew = 512, kOfThread = 4;
  int const most_parts = device.capability >= 90 ? kHeldParts : 1;
  int64_t const blocks = 2 * device.multiprocessors;
  int parts = 1;
  while (parts < most_parts &&
         (ceil_divide(packets, parts) > kMost || (rows * parts < blocks && packets / parts > kFew))) {
    parts *= 2;
  }
  int64_t const of_part = ceil_divide(packets, parts);
  if (of_part > kMost || rows * parts > kMaxGridX) return {};
  int64_t const threads = std::min<int64_t>(ceil_divide(ceil_divide(of_part, kOfThread), kWarp) * kWarp, kHeldThreads);
  return {parts, static_cast<unsigned>(of_part), static_cast<unsigned>(threads)};
}

template <class T, int kLanes, int kPackets>
cudaError_t launch_held(GroupNormArguments<T> const& a, HeldPlan const& plan, cudaStream_t stream) {
  auto const blocks = static_cast<unsigned>(a.rows() * plan.parts);
  auto const kernel = group_norm_held_kernel<T, kLanes, kPackets>;
  if (plan.parts == 1) {
    kernel<<<blocks, plan.threads, 0, stream>>>(a, 1, plan.packets);
    return cudaGetLastError();
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(plan.parts);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks, config.blockDim = plan.threads, config.stream = stream;
  config.attrs = &attribute, config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, a, plan.parts, plan.packets);
}

template <class T, int kLanes>
cudaError_t launch_group_norm_held(GroupNormArguments<T> const& a, HeldPlan const& plan, cudaStream_t stream) {
  int64_t const of_thread = ceil_divide(plan.packets, plan.threads);
  if (of_thread <= 1) return launch_held<T, kLanes, 1>(a, plan, stream);
  if (of_thread <= 2) return launch_held<T, kLanes, 2>(a, plan, stream);
  if (of_thread <= 4) return launch_held<T, kLanes, 4>(a, plan, stream);
  return launch_held<T, kLanes, kHeldPackets>(a, plan, stream);
}

}  // namespace bridge
