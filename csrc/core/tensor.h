// Tensors in device memory, as ops get them.
#pragma once

#include <array>
#include <cstdint>

#include "checked.h"
#include "dim.h"
#include "dtype.h"

namespace bridge {

// The order of a tensor's elements in memory. Channels last: dimension 1 of four is the innermost, then 3, 2 and 0.
// Strided: any order, but for the last dimension, whose elements lie side by side. What a host has of them is a table
// there: formats in hosts/tensorrt/types.cpp, strides in hosts/torch/types.cpp.
enum class Layout : int32_t { kLinear, kChannelsLast, kStrided };

using Layouts = uint32_t;  // a set of Layout, one bit each
constexpr Layouts in_set(Layout layout) { return 1u << static_cast<int32_t>(layout); }

// Row-major, unless it is an input whose parameter is also taken in another layout. Absent optional tensors have rank
// -1 and no data.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kUnsupported;
  int rank = -1;
  std::array<int64_t, kMaxRank> sizes{};
  Layout layout = Layout::kLinear;
  std::array<int64_t, kMaxRank> strides{};  // in elements, where the layout is kStrided

  // Elements from one index of a dimension to the next; not of channels-last tensors.
  int64_t stride(int axis) const {
    if (layout == Layout::kStrided) return strides[axis];
    Size step = 1;
    for (int inner = axis + 1; inner < rank; ++inner) step = step * sizes[inner];
    return step.value();
  }
  bool present() const { return rank >= 0; }
  int64_t operator[](int axis) const { return sizes[axis]; }
  int64_t numel() const {
    Size count = 1;
    for (int axis = 0; axis < rank; ++axis) count = count * sizes[axis];
    return count.value();
  }
};

inline Shape shape_of(Tensor const& tensor) {
  Shape shape;
  shape.rank = tensor.rank;
  for (int axis = 0; axis < tensor.rank; ++axis) shape.dims[axis] = tensor[axis];
  return shape;
}

}  // namespace bridge
