// Dtypes, formats, tactics, tensors and shapes of TensorRT as those of the op table.
#pragma once

#include "core/op.h"
#include "hosts/tensorrt/abi.h"

namespace bridge {

// kUnsupported for a dtype that the table lacks.
DType from_trt(int32_t dtype);
int32_t to_trt(DType dtype);

// TensorRT's tactics are positive. The first leaves the choice to the op, for a TensorRT that takes it unmeasured, as
// TensorRT-RTX does; 0 does too.
constexpr int32_t kOwnChoice = 1;
constexpr int32_t to_trt_tactic(int tactic) { return tactic + kOwnChoice + 1; }
constexpr int from_trt_tactic(int32_t tactic) { return tactic <= kOwnChoice ? -1 : tactic - kOwnChoice - 1; }

// The layout of a tensor in that format; kLinear where the table lacks it.
Layout layout_of(trt::TensorDesc const& desc);
// Whether the parameter is taken in the tensor's format.
bool takes_format(Param const& param, trt::TensorDesc const& desc);
// Whether an engine is built with the tensor in that format: in one alone, of those that it is taken in. TensorRT-RTX
// 1.6.1 tells a plugin that takes several that a tensor is linear, whichever of them it is in.
bool is_built_in(Param const& param, trt::TensorDesc const& desc);
// Whether it is in the layout that the op's first input asks of it.
bool fits_first(Param const& param, trt::TensorDesc const& desc, trt::TensorDesc const& first);
// That the parameter is taken in it, and that it fits the first input, or it throws; the rank is checked too.
void require_format(Param const& param, trt::TensorDesc const& desc, trt::TensorDesc const& first);

bool same_desc(trt::TensorDesc const& a, trt::TensorDesc const& b);

// The description of a tensor, of one with its profile too.
inline trt::TensorDesc const& desc_of(trt::TensorDesc const& desc) { return desc; }
inline trt::TensorDesc const& desc_of(trt::DynamicTensorDesc const& desc) { return desc.desc; }

// A tensor with these extents, without data; those that are not known yet count as 0.
Tensor to_tensor(trt::Dims const& dims, trt::TensorDesc const& desc);
Shape to_shape(trt::Dims const& dims);
int checked_rank(int32_t rank);

}  // namespace bridge
