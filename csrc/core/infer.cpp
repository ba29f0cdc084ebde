#include "infer.h"

#include <algorithm>

#include "checked.h"

namespace bridge {
namespace {

void check_dtypes(OpType const& type, std::vector<Tensor> const& inputs) {
  for (size_t i = 0; i < type.inputs.size(); ++i) {
    DType const dtype = inputs[i].dtype;
    if (inputs[i].present()) require_dtype(type, type.inputs[i], dtype, inputs[0].dtype, dtype_name(dtype));
  }
}

}  // namespace

void require_dtype(OpType const& type, Param const& param, DType dtype, DType first, char const* shown) {
  if (accepts(param.types, dtype, first)) return;
  require(false, type.name, ": ", param.name, " is ", shown, ", expected ", accepted_dtypes(param, first));
}

DType output_dtype(Op const& op, Param const& output, DType first) {
  if (accepts(output.types, op.chosen_dtype(), first)) return op.chosen_dtype();
  for (DType dtype : kDTypes) {
    if (accepts(output.types, dtype, first)) return dtype;
  }
  return DType::kUnsupported;
}

std::string accepted_dtypes(Param const& param, DType first) {
  std::string names;
  for (DType dtype : kDTypes) {
    if (accepts(param.types, dtype, first)) names += (names.empty() ? "" : " or ") + std::string(dtype_name(dtype));
  }
  return names;
}

void require_size(OpType const& type, Shape const& shape) {
  Size bytes = kWidestDType;
  for (int axis = 0; axis < shape.rank; ++axis) {
    if (!shape[axis].known()) continue;
    require(shape[axis].value() >= 0, type.name, ": a tensor has shape ", shape, ", with a negative extent");
    bytes = bytes * std::max<int64_t>(shape[axis].value(), 1);
  }
}

std::vector<Shape> infer_shapes(OpType const& type, Op const& op, std::vector<Shape> const& inputs) {
  for (Shape const& input : inputs) require_size(type, input);
  std::vector<Shape> outputs(type.outputs.size());
  op.shapes(inputs.data(), outputs.data());
  for (Shape const& output : outputs) {
    for (int axis = 0; axis < output.rank; ++axis) {
      require(may_exceed(output[axis], -1), type.name, ": output shape ", output, " has a negative extent for input ",
              inputs[0]);
    }
    require_size(type, output);
  }
  return outputs;
}

std::vector<Tensor> infer_outputs(OpType const& type, Op const& op, std::vector<Tensor> const& inputs,
                                  std::vector<Shape> const& shapes) {
  check_dtypes(type, inputs);
  std::vector<Tensor> outputs;
  for (Shape const& shape : infer_shapes(type, op, shapes)) {
    Tensor output{nullptr, output_dtype(op, type.outputs[outputs.size()], inputs[0].dtype), shape.rank};
    for (int axis = 0; axis < shape.rank; ++axis) output.sizes[axis] = shape[axis].value();
    outputs.push_back(output);
  }
  outputs.resize(outputs.size() + type.counts().size(), Tensor{nullptr, DType::kInt64, 0});
  return outputs;
}

}  // namespace bridge
