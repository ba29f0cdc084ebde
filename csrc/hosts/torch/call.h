// One call of an op through PyTorch: its arguments, taken off the stack, and its results.
#pragma once

#include <torch/csrc/stable/library.h>

#include <memory>
#include <optional>
#include <vector>

#include "hosts/torch/types.h"

namespace bridge {

struct Call {
  OpType const& type;
  std::unique_ptr<Op> op;
  std::vector<std::optional<TorchTensor>> held{};  // keeps inputs alive until the work is enqueued
  std::vector<Tensor> inputs{};                    // set by view_inputs

  Call(OpType const& type, StableIValue const* stack);

  // The CUDA device that all inputs are on; throws where they are not.
  int32_t device() const;
  // On that device: what is neither dense nor in a layout that the op takes is made dense.
  void view_inputs();
};

struct Results {
  std::vector<TorchTensor> tensors{}, counts{};
  std::vector<Tensor> outputs;  // of both
  bool empty = true;            // there is no element to compute

  // Checks the call's inputs, and makes room.
  explicit Results(Call const& call);

  // Cuts what is counted to what the work says, which is waited for.
  cudaError_t cut(OpType const& type, cudaStream_t stream);
};

}  // namespace bridge
