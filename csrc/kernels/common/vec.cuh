// 16-byte access and conversion to and from fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace bridge {

using half = __half;
using bfloat16 = __nv_bfloat16;

constexpr int kAccessBytes = 16;
constexpr int64_t kMaxGridX = (int64_t(1) << 31) - 1, kMaxGridY = 65535;  // blocks of a launch, on any GPU

// N lanes, aligned for the widest access that they allow.
template <class T, int N>
struct alignas(sizeof(T) * N < kAccessBytes ? sizeof(T) * N : kAccessBytes) Vec {
  T lane[N];
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(half value) { return __half2float(value); }
__device__ inline float to_float(bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline half from_float<half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ inline bfloat16 from_float<bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// a b + c, lane by lane; of two bfloat16 in float32 before compute capability 8.0, which has no such instruction.
__device__ inline float multiply_add_lanes(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline __half2 multiply_add_lanes(__half2 a, __half2 b, __half2 c) { return __hfma2(a, b, c); }
__device__ inline __nv_bfloat162 multiply_add_lanes(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __hfma2(a, b, c);
#else
  float2 const x = __bfloat1622float2(a), y = __bfloat1622float2(b), z = __bfloat1622float2(c);
  return __floats2bfloat162_rn(fmaf(x.x, y.x, z.x), fmaf(x.y, y.y, z.y));
#endif
}

inline bool aligned(void const* pointer, size_t bytes = kAccessBytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

inline int64_t ceil_divide(int64_t a, int64_t b) { return a / b + (a % b > 0); }

}  // namespace bridge
