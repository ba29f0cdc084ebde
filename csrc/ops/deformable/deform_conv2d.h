// What deform_conv2d and deform_conv2d_fused share: attributes, checks, and the calls of their kernels, which are
// compiled once, in deform_conv2d.cu.
#pragma once

#include "core/op.h"

namespace bridge {

template <class T>
struct DeformConv2dArguments;
struct DeformConv2dChoice;

struct DeformConv2dOp : Op {
  Pair stride{1, 1}, padding{0, 0}, dilation{1, 1};
  bool allow_tf32 = false;

  int capability_with_workspace() const override;
  size_t workspace(Tensor const* in, Tensor const* out) const override;
  std::vector<int> tactics(Tensor const* in, Tensor const* out) const override;
  int own_tactic(Tensor const* in, Tensor const* out) const override;
  char const* derived_from() const override { return "weight"; }
  Derived derived(Tensor const* in, Tensor const* out) const override;
  cudaError_t derive(Tensor const* in, Tensor const* out, void* memory, cudaStream_t stream) const override;
  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override;

 protected:
  // The tensors of a call, and what is made of sums (DeformConv2dActivation).
  struct Operands {
    Tensor const &x, &offset, &weight, &bias;
    Tensor const* mask;  // null: there is none, or `offset` has its logits behind the offsets
    int of_tap;          // channels of `offset` for each offset group and tap: 2, or 3 with logits
    float least, slope;
  };
  virtual Operands operands(Tensor const* in) const = 0;

  // Checks everything but the mask, and returns the shape of the result. offset: called `called`; see Operands.
  Shape check(char const* op, Shape const& x, char const* called, Shape const& offset, int of_tap, Shape const& weight,
              Shape const& bias) const;

 private:
  template <class T>
  DeformConv2dArguments<T> arguments(Tensor const* in, Tensor const* out) const;
  bool has_column_workspace() const;
  template <class T>
  DeformConv2dChoice choose(DeformConv2dArguments<T> a, bool has_workspace) const;
  Dim out_extent(Dim extent, Dim kernel, int axis) const;
  void check_attributes(char const* op) const;
};

}  // namespace bridge
