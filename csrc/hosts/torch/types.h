// Dtypes, layouts and tensors of PyTorch as those of the op table.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "core/op.h"

namespace bridge {

using TorchTensor = torch::stable::Tensor;
using torch::headeronly::ScalarType;

// kUnsupported for a dtype that the table lacks.
DType from_torch(ScalarType dtype);
ScalarType to_torch(DType dtype);

// The layout in which an op gets a tensor: kLinear where it is dense, or must be made so.
Layout layout_of(TorchTensor const& tensor, Param const& param);
// The tensor as it lies in memory. Throws for more than kMaxRank dimensions.
Tensor view(TorchTensor const& tensor, Layout layout = Layout::kLinear);

}  // namespace bridge
