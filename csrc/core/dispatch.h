// From a dtype to the type that kernels know it by.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <utility>

#include "dtype.h"

namespace bridge {

template <class T>
constexpr DType dtype_of = DType::kUnsupported;

#define BRIDGE_ROW(member, name, type, bytes, ...)       \
  template <>                                            \
  inline constexpr DType dtype_of<type> = DType::member; \
  static_assert(sizeof(type) == bytes);
BRIDGE_DTYPES(BRIDGE_ROW)
#undef BRIDGE_ROW

// Calls `body` with a value of that one of the types which the dtype stands for.
template <class... Types, class Body>
cudaError_t dispatch(DType dtype, Body&& body) {
  cudaError_t status = cudaErrorInvalidValue;
  (void)((dtype == dtype_of<Types> && (status = body(Types{}), true)) || ...);
  return status;
}

template <class Body>
cudaError_t dispatch_floating(DType dtype, Body&& body) {
  return dispatch<float, __half, __nv_bfloat16>(dtype, std::forward<Body>(body));
}

}  // namespace bridge
