#include "hosts/torch/types.h"

namespace bridge {
namespace {

bool is_strided(TorchTensor const& tensor) {
  return tensor.dim() > 0 && tensor.dim() <= kMaxRank && tensor.stride(tensor.dim() - 1) == 1;
}

// Dense in that layout and in no other.
bool is_channels_last(TorchTensor const& tensor) {
  if (tensor.dim() != 4 || tensor.numel() == 0) return false;
  int64_t step = 1;
  for (int axis : {1, 3, 2, 0}) {
    if (tensor.size(axis) != 1 && tensor.stride(axis) != step) return false;
    step *= tensor.size(axis);
  }
  return true;
}

// What tells a layout, one row each; an op gets the first that its parameter takes.
constexpr struct {
  Layout layout;
  bool (*is)(TorchTensor const&);
} kLayouts[] = {
    {Layout::kStrided, is_strided},
    {Layout::kChannelsLast, is_channels_last},
};

}  // namespace

DType from_torch(ScalarType dtype) {
  switch (dtype) {
#define BRIDGE_ROW(member, name, type, bytes, torch, ...) \
  case ScalarType::torch:                                 \
    return DType::member;
    BRIDGE_DTYPES(BRIDGE_ROW)
#undef BRIDGE_ROW
    default:
      return DType::kUnsupported;
  }
}

ScalarType to_torch(DType dtype) {
  switch (dtype) {
#define BRIDGE_ROW(member, name, type, bytes, torch, ...) \
  case DType::member:                                     \
    return ScalarType::torch;
    BRIDGE_DTYPES(BRIDGE_ROW)
#undef BRIDGE_ROW
    default:
      throw std::runtime_error("an output would have an unsupported dtype");
  }
}

Layout layout_of(TorchTensor const& tensor, Param const& param) {
  if (tensor.is_contiguous() || param.tied) return Layout::kLinear;
  for (auto const& row : kLayouts) {
    if ((param.also & in_set(row.layout)) && row.is(tensor)) return row.layout;
  }
  return Layout::kLinear;
}

Tensor view(TorchTensor const& tensor, Layout layout) {
  require(tensor.dim() <= kMaxRank, "a tensor has ", tensor.dim(), " dimensions, at most ", kMaxRank, " are supported");
  Tensor result{tensor.data_ptr(), from_torch(tensor.scalar_type()), static_cast<int>(tensor.dim())};
  result.layout = layout;
  for (int axis = 0; axis < result.rank; ++axis) {
    result.sizes[axis] = tensor.size(axis);
    if (layout == Layout::kStrided) result.strides[axis] = tensor.stride(axis);
  }
  return result;
}

}  // namespace bridge
