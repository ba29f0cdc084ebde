// y = limit * tanh(x / limit), element by element. A kernel sees pointers, sizes and a stream: no torch, no TensorRT.
#pragma once

#include <algorithm>
#include <bridge/kernels/common/vec.cuh>

namespace mynamespace_ops {

__device__ inline float myop_one(float x, float limit) { return limit * tanhf(x / limit); }  // the formula

template <class T>
__global__ void myop_kernel(T const* __restrict__ x,  // [count]
                            T* __restrict__ y,        // [count]
                            int64_t count, float limit) {
  int64_t const stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    y[i] = bridge::from_float<T>(myop_one(bridge::to_float(x[i]), limit));
  }
}

template <class T>
cudaError_t launch_myop(T const* x,  // [count]
                        T* y,        // [count]
                        int64_t count, float limit, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  constexpr int64_t kMostBlocks = 1 << 16;
  auto const blocks = static_cast<unsigned>(std::min(bridge::ceil_divide(count, kThreads), kMostBlocks));
  myop_kernel<<<blocks, kThreads, 0, stream>>>(x, y, count, limit);
  return cudaGetLastError();
}

}  // namespace mynamespace_ops
