// y = min(x >= 0 ? x : negative_slope * x, max_value), element by element. NaN stays NaN.
#pragma once

#include <algorithm>

#include "kernels/common/vec.cuh"

namespace bridge {

template <class T>
__device__ T relu_one(T x, float negative_slope, float max_value) {
  float value = to_float(x);
  value = value < 0.f ? negative_slope * value : value;
  value = value > max_value ? max_value : value;
  return from_float<T>(value);
}

template <class T, int N>
__global__ void relu_kernel(T const* __restrict__ x,  // [count]
                            T* __restrict__ y,        // [count]
                            int64_t count, float negative_slope, float max_value) {
  using Packet = Vec<T, N>;
  int64_t const stride = int64_t(gridDim.x) * blockDim.x;
  int64_t const first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t const packets = count / N;
  for (int64_t i = first; i < packets; i += stride) {
    Packet packet = reinterpret_cast<Packet const*>(x)[i];
#pragma unroll
    for (int lane = 0; lane < N; ++lane) packet.lane[lane] = relu_one(packet.lane[lane], negative_slope, max_value);
    reinterpret_cast<Packet*>(y)[i] = packet;
  }
  for (int64_t i = packets * N + first; i < count; i += stride) y[i] = relu_one(x[i], negative_slope, max_value);
}

template <class T>
cudaError_t launch_relu(T const* x,  // [count]
                        T* y,        // [count]
                        int64_t count, float negative_slope, float max_value, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  constexpr int64_t kMaxBlocks = 1 << 20;
  constexpr int kLanes = kAccessBytes / sizeof(T);
  bool const wide = aligned(x) && aligned(y);
  int64_t const items = wide ? std::max<int64_t>(count / kLanes, 1) : count;
  auto const blocks = static_cast<unsigned>(std::min(ceil_divide(items, kThreads), kMaxBlocks));
  auto kernel = wide ? relu_kernel<T, kLanes> : relu_kernel<T, 1>;
  kernel<<<blocks, kThreads, 0, stream>>>(x, y, count, negative_slope, max_value);
  return cudaGetLastError();
}

}  // namespace bridge
