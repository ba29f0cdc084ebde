// What both hosts ask of an op before they run it: whether it takes these inputs, and what its outputs are.
#pragma once

#include <string>
#include <vector>

#include "op.h"

namespace bridge {

// The dtypes that a parameter takes, when the first input has dtype `first`: "float32 or float16".
std::string accepted_dtypes(Param const& param, DType first);
// Throws, with the parameter's name, unless it takes the dtype; shown: what that is called.
void require_dtype(OpType const& type, Param const& param, DType dtype, DType first, char const* shown);
// The dtype of an output: the one that the op's attributes choose, that of the first input, or the only one its
// parameter allows.
DType output_dtype(Op const& op, Param const& output, DType first);
// That bytes, indices and strides of a tensor fit 64 bits, with extents of 0 counted as 1; throws otherwise.
void require_size(OpType const& type, Shape const& shape);

// Runs `shapes` on numbers. Throws when a check fails, an extent is negative, or bytes of a tensor overflow 64 bits.
std::vector<Shape> infer_shapes(OpType const& type, Op const& op, std::vector<Shape> const& inputs);
// All that a host checks of a call, dtypes included: throws with the tensor's name and what it is. shapes: those of the
// inputs, whose extents may be unknown, and count as 0 in `inputs`. Returns the outputs as `run` gets them, but without
// data; after the op's own there is an int64 [] for each that is counted.
std::vector<Tensor> infer_outputs(OpType const& type, Op const& op, std::vector<Tensor> const& inputs,
                                  std::vector<Shape> const& shapes);

}  // namespace bridge
