// group_norm in two launches, for groups that no cluster holds: moments of parts of groups, then results. The second
// goes backwards, so that what the first read last comes from the L2 cache.
#pragma once

#include <algorithm>

#include "core/checked.h"
#include "kernels/common/overlap.cuh"
#include "kernels/normalization/group_norm_arguments.cuh"

namespace bridge {

constexpr int kPassThreads = 512, kPassUnroll = 4;
constexpr int kPassResidents = 2;      // blocks of a multiprocessor
constexpr int64_t kPassBlocks = 1024;  // most blocks that parts are made for

// Parts of each of `count` things, so that the GPU has work; no more than there are pieces.
inline int pass_parts(int64_t count, int64_t pieces, int multiprocessors) {
  int64_t const blocks = std::min<int64_t>(4 * std::max(multiprocessors, 1), kPassBlocks);
  return static_cast<int>(std::max<int64_t>(std::min(ceil_divide(blocks, count), pieces), 1));
}

// Parts of each of `rows` groups, whose blocks all run at once, or in four waves where that could leave more than a
// fifth of the GPU idle: a last wave of few blocks takes as long as a full one.
inline int group_parts(int64_t rows, int64_t pieces, int multiprocessors) {
  int64_t const slots = kPassResidents * std::max(multiprocessors, 1);
  int64_t const blocks = std::min(rows > 0 && slots / rows >= 4 ? slots : 4 * slots, kPassBlocks);
  return static_cast<int>(std::max<int64_t>(std::min(blocks / std::max<int64_t>(rows, 1), pieces), 1));
}

// Bytes that moments of all parts take, those merged included; for any split into parts, and growing with the batch.
inline Size pass_workspace(Size batch, Size groups) {
  return groups * (batch * Size(2) + Size(kPassBlocks)) * Size(sizeof(Moments));
}

struct Span {
  unsigned begin, end;
};

__device__ inline Span span_of(int part, int parts, unsigned count) {
  unsigned const length = (count + parts - 1) / parts;
  return {min(part * length, count), min(part * length + length, count)};
}

// Calls `body` with each packet of a block's span and its place; several are read at once.
template <class Packet, class Body>
__device__ void each_packet(Packet const* x, Span span, Body&& body) {
  for (unsigned i = span.begin + threadIdx.x; i < span.end; i += kPassUnroll * kPassThreads) {
    Packet packets[kPassUnroll];
#pragma unroll
    for (int k = 0; k < kPassUnroll; ++k)
      if (i + k * kPassThreads < span.end) packets[k] = x[i + k * kPassThreads];
#pragma unroll
    for (int k = 0; k < kPassUnroll; ++k)
      if (i + k * kPassThreads < span.end) body(packets[k], i + k * kPassThreads);
  }
}

// Those of a row, in the first thread of the warp that calls it.
__device__ inline Moments moments_of_parts(Moments const* of_parts, int parts) {
  Moments own{0.f, 0.f, 0.f};
  for (int part = threadIdx.x % kWarp; part < parts; part += kWarp) own = merged(own, of_parts[part]);
  return warp_moments(own);
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kPassThreads, kPassResidents) group_norm_moments_kernel(
    GroupNormArguments<T> a,
    Moments* found,  // [rows, parts]
    int parts) {
  using Packet = Vec<T, kLanes>;
  __shared__ Moments of_warps[kWarp];
  wait_for_kernel_before();
  let_next_kernel_begin();
  auto const* x = reinterpret_cast<Packet const*>(a.x + blockIdx.x / parts * int64_t(a.size()));
  Span const span = span_of(blockIdx.x % parts, parts, a.size() / kLanes);
  unsigned const count = stepped(span.begin + threadIdx.x, span.end, kPassThreads);
  MomentSums sums(count ? to_float(x[span.begin + threadIdx.x].lane[0]) : 0.f);
  each_packet(x, span, [&](Packet const& packet, unsigned) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) sums.add(to_float(packet.lane[lane]));
  });
  Moments const moments = block_moments(sums.moments(count * kLanes), of_warps);
  if (threadIdx.x == 0) found[blockIdx.x] = moments;
}

template <class T, int kLanes>
__global__ void __launch_bounds__(kPassThreads, kPassResidents) group_norm_results_kernel(
    GroupNormArguments<T> a,
    Moments const* found,  // [rows, parts]
    int parts) {
  using Packet = Vec<T, kLanes>;
  __shared__ Normal of_all;
  wait_for_kernel_before();
  let_next_kernel_begin();
  unsigned const block = gridDim.x - 1 - blockIdx.x;
  int64_t const row = block / parts;
  auto const* x = reinterpret_cast<Packet const*>(a.x + row * a.size());
  auto* y = reinterpret_cast<Packet*>(a.y + row * a.size());
  Span const span = span_of(block % parts, parts, a.size() / kLanes);
  Normal normal{};
  if (threadIdx.x < kWarp) normal = normal_of(moments_of_parts(found + row * parts, parts), a.eps);
  normal = to_all(normal, &of_all);
  int const first_channel = static_cast<int>(row % a.groups) * a.depth();
  each_packet(x, span, [&](Packet& packet, unsigned place) {
    forget(packet);
    y[place] = normalised<T, kLanes>(a, packet, normal, first_channel, place * kLanes);
  });
}

template <class T, int kLanes>
cudaError_t launch_group_norm_passes(GroupNormArguments<T> const& a, int multiprocessors, Moments* workspace,
                                     cudaStream_t stream) {
  int const parts = group_parts(a.rows(), ceil_divide(a.size(), kLanes * kPassThreads), multiprocessors);
  if (a.rows() * parts > kMaxGridX) return cudaErrorInvalidConfiguration;
  auto const blocks = static_cast<unsigned>(a.rows() * parts);
  cudaError_t const status =
      launch_early<group_norm_moments_kernel<T, kLanes>>(blocks, kPassThreads, stream, a, workspace, parts);
  if (status != cudaSuccess) return status;
  return launch_early<group_norm_results_kernel<T, kLanes>>(blocks, kPassThreads, stream, a, workspace, parts);
}

}  // namespace bridge
