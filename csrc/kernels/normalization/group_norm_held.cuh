// group_norm in one launch: a block holds a group in its registers, or, from compute capability 9.0 on, a cluster of
// blocks does. Each value is read once.
#pragma once

#include <cooperative_groups.h>

#include <algorithm>

#include "core/device.h"
#include "kernels/common/cluster.cuh"
#include "kernels/common/overlap.cuh"
#include "kernels/normalization/group_norm_arguments.cuh"

namespace bridge {

constexpr int kHeldThreads = 1024, kHeldPackets = 8;
constexpr int kHeldParts = 8;  // blocks of a cluster, on any GPU that has them

struct HeldShared {
  Moments of_warps[kWarp], of_parts[kHeldParts];
  Normal of_all;
};

// This part has begun, so that others may write to its shared memory.
__device__ inline void announce_part(int parts) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (parts > 1) begin_meeting();
#endif
}

// The group's, in every thread. own: of the part, in its first thread. Each part writes its own to the shared memory of
// all, so that none reads another's, which ends when it has its own results.
__device__ inline Normal normal_of_parts(Moments own, int part, int parts, float eps, HeldShared& shared) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (parts > 1) {
    int const lane = threadIdx.x % kWarp;
    end_meeting();
    if (threadIdx.x < kWarp) {
      own = {__shfl_sync(kAllLanes, own.count, 0), __shfl_sync(kAllLanes, own.mean, 0),
             __shfl_sync(kAllLanes, own.squares, 0)};
      if (lane < parts) *cooperative_groups::this_cluster().map_shared_rank(shared.of_parts + part, lane) = own;
    }
    synchronize_cluster();
    Normal const first = normal_of(warp_moments(lane < parts ? shared.of_parts[lane] : Moments{0.f, 0.f, 0.f}), eps);
    return {__shfl_sync(kAllLanes, first.mean, 0), __shfl_sync(kAllLanes, first.scale, 0)};
  }
#endif
  return to_all(normal_of(own, eps), &shared.of_all);
}

// Blocks: parts of a group first, then groups, then images. packets: of a part, in 16 bytes or single values.
template <class T, int kLanes, int kPackets>
__global__ void __launch_bounds__(kHeldThreads) group_norm_held_kernel(GroupNormArguments<T> a, int parts,
                                                                       unsigned packets) {
  using Packet = Vec<T, kLanes>;
  __shared__ HeldShared shared;
  wait_for_kernel_before();
  let_next_kernel_begin();
  int64_t const row = blockIdx.x / parts;
  int const part = blockIdx.x % parts, first_channel = static_cast<int>(row % a.groups) * a.depth();
  unsigned const all = a.size() / kLanes, begin = part * packets, end = min(begin + packets, all);
  auto const* x = reinterpret_cast<Packet const*>(a.x + row * a.size());
  auto* y = reinterpret_cast<Packet*>(a.y + row * a.size());

  Packet held[kPackets];
#pragma unroll
  for (int k = 0; k < kPackets; ++k) {
    unsigned const i = begin + threadIdx.x + k * blockDim.x;
    if (i < end) held[k] = x[i];
  }
  announce_part(parts);
  fetch_channels(a, first_channel);
  unsigned const count = stepped(begin + threadIdx.x, end, blockDim.x);
  MomentSums sums(count ? to_float(held[0].lane[0]) : 0.f);
#pragma unroll
  for (int k = 0; k < kPackets; ++k) {
    if (k >= count) continue;
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sums.add(to_float(held[k].lane[lane]));
  }
  Moments const moments = block_moments(sums.moments(count * kLanes), shared.of_warps);
  Normal const normal = normal_of_parts(moments, part, parts, a.eps, shared);
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

inline HeldPlan held_by(int parts, int64_t of_part, int64_t of_thread) {
  int64_t const threads = ceil_divide(ceil_divide(of_part, std::max<int64_t>(of_thread, 1)), kWarp) * kWarp;
  return {parts, static_cast<unsigned>(of_part), static_cast<unsigned>(std::min<int64_t>(threads, kHeldThreads))};
}

// The fewest blocks a group that fill the GPU, and few packets a thread: once the moments are known, a thread's packets
// follow each other. The GPU runs too few clusters of four or eight at once, because some multiprocessors are left
// over: there are none of four, those of eight have small blocks, and larger groups are read twice instead.
inline HeldPlan held_plan(int64_t rows, int64_t packets, Device const& device) {
  constexpr int64_t kMost = int64_t(kHeldThreads) * kHeldPackets, kFew = 256, kSmallBlock = 256;
  if (rows * kHeldParts > kMaxGridX) return {};
  if (device.capability < 90) return packets <= kMost ? held_by(1, packets, 4) : HeldPlan{};
  int64_t const blocks = device.multiprocessors, threads = std::max<int64_t>(blocks, 1) * kHeldThreads;
  for (int parts : {1, 2}) {
    int64_t const of_part = ceil_divide(packets, parts);
    bool const fills = 5 * rows * parts >= 4 * blocks || of_part <= kFew;
    if (fills && of_part <= (rows * parts <= blocks ? kMost : kMost / 2))  // of several waves, two blocks at once
      return held_by(parts, of_part, std::min<int64_t>(ceil_divide(rows * packets, threads), kHeldPackets));
  }
  int64_t const of_part = ceil_divide(packets, kHeldParts), of_thread = ceil_divide(of_part, kSmallBlock);
  return of_thread <= kHeldPackets ? held_by(kHeldParts, of_part, of_thread) : HeldPlan{};
}

template <class T, int kLanes, int kPackets>
cudaError_t launch_held(GroupNormArguments<T> const& a, HeldPlan const& plan, cudaStream_t stream) {
  auto const blocks = static_cast<unsigned>(a.rows() * plan.parts);
  constexpr auto kKernel = group_norm_held_kernel<T, kLanes, kPackets>;
  return launch_in_clusters(kKernel, blocks, plan.threads, dim3(plan.parts), 0, stream,
                            waits_for_kernel_before<kKernel>(), a, plan.parts, plan.packets);
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
