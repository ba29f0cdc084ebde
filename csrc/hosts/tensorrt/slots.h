// Which tensors of its signature a plugin is given: TensorRT has no optional ones.
#pragma once

#include <string>
#include <vector>

#include "core/op.h"

namespace bridge {

// The string field that names the tensors given, such as "x,offset,weight=,mask". Without it they fill the signature in
// order. A tensor marked with "=" never changes: it is a constant of the network, and the engine is not refitted.
constexpr char const* kTensorsField = "tensors";

// The integer field of a serialised plugin that has more scratch memory than others of its op: it was asked for a
// device of this compute capability (Op::capability_with_workspace).
constexpr char const* kWorkspaceField = "workspace_capability";

// Index in the signature of each tensor given. Throws for unknown names, a wrong order, or a required tensor left out.
std::vector<int> input_slots(OpType const& type, std::string const& names, int count);
// Whether the field marks the tensor as one that never changes.
bool is_constant(std::string const& names, char const* tensor);

}  // namespace bridge
