// What both halves of a plugin share: the op with its attributes, and the tensors of its signature that are given.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/infer.h"
#include "core/library.h"
#include "core/op.h"
#include "hosts/tensorrt/fields.h"
#include "hosts/tensorrt/guard.h"
#include "hosts/tensorrt/slots.h"
#include "hosts/tensorrt/types.h"

namespace bridge {

constexpr char const* kVersion = "1";

struct PluginOp {
  OpType const& type;
  std::unique_ptr<Op> op;
  std::string given;  // the field `tensors`

  // TensorRT's tensors as those of the signature; absent ones have rank -1.
  struct Inputs {
    std::vector<int> slots;  // where each tensor given stands in the signature
    std::vector<Tensor> tensors;
    std::vector<Shape> shapes;
  };

  PluginOp clone() const { return {type, type.clone(*op), given}; }

  int32_t num_outputs() const { return static_cast<int32_t>(type.outputs.size() + type.counts().size()); }
  // Whether an output is none of the op's own, but the extent of one that is counted.
  bool is_count(int32_t output) const { return output >= static_cast<int32_t>(type.outputs.size()); }

  std::vector<int> slots(int32_t num_in) const { return input_slots(type, given, num_in); }
  template <class Desc>
  Inputs inputs(Desc const* in, int32_t num_in) const;
  // Checks dtypes, shapes and sizes; returns the outputs.
  std::vector<Tensor> outputs(Inputs const& in) const { return infer_outputs(type, *op, in.tensors, in.shapes); }

  // Arrays and counts as an interface gets them.
  void require_tensors(void const* in, int32_t num_in, void const* out, int32_t num_out) const;

  template <class Result, class Body>
  Result guard(char const* where, Result failure, Body&& body) const noexcept {
    return guarded(type.name.c_str(), where, failure, std::forward<Body>(body));
  }
};

template <class Desc>
PluginOp::Inputs PluginOp::inputs(Desc const* in, int32_t num_in) const {
  Inputs result{slots(num_in), std::vector<Tensor>(type.inputs.size()), std::vector<Shape>(type.inputs.size())};
  for (int i = 0; i < num_in; ++i) {
    trt::TensorDesc const& desc = desc_of(in[i]);
    result.shapes[result.slots[i]] = to_shape(desc.dims);
    result.tensors[result.slots[i]] = to_tensor(desc.dims, desc);
  }
  return result;
}

}  // namespace bridge
