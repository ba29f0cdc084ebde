// Dtypes: one table, which every other place that names them expands.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bridge {

// A row is all that a new dtype needs beside the kernels that take it. Columns: the member of DType; its name; its type
// in kernels, of cuda_fp16.h and cuda_bf16.h where C++ has none (core/dispatch.h); bytes of an element; the member of
// torch's ScalarType; the member of TensorRT's DataType as hosts/tensorrt/abi.h spells it. At most 31 rows.
#define BRIDGE_DTYPES(ROW)                                          \
  ROW(kFloat32, "float32", float, 4, Float, kFloat)                 \
  ROW(kFloat16, "float16", __half, 2, Half, kHalf)                  \
  ROW(kBFloat16, "bfloat16", __nv_bfloat16, 2, BFloat16, kBFloat16) \
  ROW(kInt32, "int32", int32_t, 4, Int, kInt32)                     \
  ROW(kInt64, "int64", int64_t, 8, Long, kInt64)                    \
  ROW(kBool, "bool", bool, 1, Bool, kBool)                          \
  ROW(kUInt8, "uint8", uint8_t, 1, Byte, kUInt8)                    \
  ROW(kInt8, "int8", int8_t, 1, Char, kInt8)

#define BRIDGE_ROW(member, ...) member,
enum class DType : int32_t { BRIDGE_DTYPES(BRIDGE_ROW) kUnsupported };
#undef BRIDGE_ROW

#define BRIDGE_ROW(member, ...) DType::member,
constexpr DType kDTypes[] = {BRIDGE_DTYPES(BRIDGE_ROW)};
#undef BRIDGE_ROW

#define BRIDGE_ROW(member, name, type, bytes, ...) bytes,
constexpr int64_t kWidestDType = std::max({BRIDGE_DTYPES(BRIDGE_ROW)});  // bytes of an element
#undef BRIDGE_ROW

inline char const* dtype_name(DType dtype) {
#define BRIDGE_ROW(member, name, ...) name,
  constexpr char const* names[] = {BRIDGE_DTYPES(BRIDGE_ROW) "an unsupported dtype"};
#undef BRIDGE_ROW
  return names[static_cast<int32_t>(dtype)];
}

using DTypes = uint32_t;  // a set of DType, one bit each
constexpr DTypes in_set(DType dtype) { return 1u << static_cast<int32_t>(dtype); }
constexpr DTypes kFloat32 = in_set(DType::kFloat32);
constexpr DTypes kFloating = kFloat32 | in_set(DType::kFloat16) | in_set(DType::kBFloat16);
constexpr DTypes kIndex = in_set(DType::kInt32) | in_set(DType::kInt64);
// Bytes of images. TensorRT gives no plugin a UINT8 tensor: there the same bytes come as INT8.
constexpr DTypes kBytes = in_set(DType::kUInt8) | in_set(DType::kInt8);
constexpr DTypes kMask = in_set(DType::kBool) | in_set(DType::kInt32);
constexpr DTypes kLikeFirst = 1u << 31;  // the dtype of the first input

inline bool accepts(DTypes set, DType dtype, DType first) {
  return dtype != DType::kUnsupported && ((set & in_set(dtype)) || ((set & kLikeFirst) && dtype == first));
}

}  // namespace bridge
