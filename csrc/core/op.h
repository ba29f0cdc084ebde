// The op table: what an op is to every host, and how it enters the table. Names no host.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "dim.h"
#include "dtype.h"
#include "op_check.h"
#include "require.h"
#include "tensor.h"

namespace bridge {

struct Param {
  char const* name;
  DTypes types;
  bool optional = false;
  Layouts also = 0;      // layouts that it is taken in beside kLinear, as it comes: the op looks at Tensor::layout
  bool counted = false;  // an output whose first extent depends on values, see `counted`
  bool tied = false;     // its layout is the first input's, see `in_layout_of_first`
};

// The parameter, of an op whose kernels read it in that layout too.
constexpr Param or_channels_last(Param param) {
  param.also |= in_set(Layout::kChannelsLast);
  return param;
}
constexpr Param or_strided(Param param) {
  param.also |= in_set(Layout::kStrided);
  return param;
}

// An output that is written in the layout in which the first input comes, or that input itself, where a host lets the
// op choose layouts: TensorRT does. PyTorch's results are row-major, and there the input is, too.
constexpr Param in_layout_of_first(Param param) {
  param.also |= in_set(Layout::kChannelsLast);
  param.tied = true;
  return param;
}

// An output whose first extent depends on values: `shapes` gives the most that it can be, and `run` writes what it is
// into a further output, an int64 [] after all others. Without elements at most, it is 0 and nothing runs.
constexpr Param counted(Param param) {
  param.counted = true;
  return param;
}

using Pair = std::array<int64_t, 2>;
using AttributeValue =
    std::variant<int64_t*, double*, bool*, std::string*, Pair*, std::vector<int64_t>*, std::vector<double>*>;

template <class T>
constexpr bool kIsAttribute = std::is_constructible_v<AttributeValue, T*>;

struct Attribute {
  char const* name;
  AttributeValue value;

  template <class T>
  Attribute(char const* name, T* value) : name(name) {
    static_assert(kIsAttribute<T>,
                  "an attribute is an int64_t, double, bool, std::string, bridge::Pair, std::vector<int64_t> or "
                  "std::vector<double>, as torch has them: not int, size_t, float, or a vector of those");
    if constexpr (kIsAttribute<T>) this->value = value;
  }
};

// An op with the values of its attributes. Tensors come first in its signature, then the attributes in this order.
struct Op {
  virtual ~Op() = default;
  virtual std::vector<Attribute> attributes() { return {}; }
  // Output shapes, and every check of the inputs (require). Extents may be expressions or unknown.
  virtual void shapes(Shape const* inputs, Shape* outputs) const = 0;
  // The dtype of an output whose parameter takes several, as an attribute says it; kUnsupported where none does.
  virtual DType chosen_dtype() const { return DType::kUnsupported; }
  // Bytes of scratch memory for tensors of these sizes (data pointers are null). A builder may ask before it knows
  // extents, with 0 in their place, which `shapes` would refuse; and so it may for `tactics`.
  virtual size_t workspace(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return 0; }
  // The compute capability whose devices get scratch memory that no others need; 0: there is none.
  virtual int capability_with_workspace() const { return 0; }
  // Of the device that `workspace` was asked for; 0: it is not known, -1: it is the current one. An engine may run on
  // another device than that, where `run` must do with what was asked for.
  int workspace_capability = -1;
  // Ways to compute tensors of these sizes on the current device, as numbers that stay; empty where there is but one.
  virtual std::vector<int> tactics(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return {}; }
  int tactic = -1;  // one of them, or -1: the op chooses
  // Which of them it chooses for tensors of these sizes; -1 where there is but one way.
  virtual int own_tactic(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return -1; }

  // What `run` makes of an input that may be a constant, such as weights in another order: a host that knows the input
  // to be one keeps it between runs. way: how it is made for these sizes; bytes: 0 where there is nothing to keep.
  struct Derived {
    int way = 0;
    size_t bytes = 0;
  };
  virtual char const* derived_from() const { return nullptr; }  // the input's name
  virtual Derived derived(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return {}; }
  virtual cudaError_t derive(Tensor const* /*inputs*/, Tensor const* /*outputs*/, void* /*memory*/,
                             cudaStream_t /*stream*/) const {
    return cudaErrorNotSupported;
  }
  void const* derived_memory = nullptr;  // what `derive` made for the sizes of the next run, or null

  // Loads what `run` needs for tensors of these sizes on the current device (data pointers are null): called ahead of
  // it, and not while a stream is captured. What cannot be loaded fails in `run`.
  virtual void prepare(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const {}
  // Enqueues the work. Sizes have passed `shapes`. Never allocates or synchronises.
  virtual cudaError_t run(Tensor const* inputs, Tensor const* outputs, void* workspace, cudaStream_t stream) const = 0;
};

struct OpType {
  std::string name;
  std::vector<Param> inputs;
  std::vector<Param> outputs;
  std::unique_ptr<Op> (*create)();
  std::unique_ptr<Op> (*clone)(Op const&);

  std::vector<size_t> counts() const;  // the outputs that are counted, in order
};

// The signature as torch.library spells it, without the namespace. A default of infinity is spelt None: a schema has no
// word for it.
std::string schema(OpType const& type);

using OpListener = void (*)(OpType const&, size_t index);

// Every op of this library, in no particular order.
std::vector<OpType const*> const& op_table();
OpType const* find_op(std::string const& name);
void add_op(OpType* type);
// Calls the listener for every op, those that register later included: static initialisers have no order.
void listen(OpListener listener);

template <class T>
struct Register {
  Register() {
    if constexpr (check_op_struct<T, Op, Param>()) {
      add_op(new OpType{T::name, T::inputs(), T::outputs(), [] { return std::unique_ptr<Op>(new T()); },
                        [](Op const& op) { return std::unique_ptr<Op>(new T(static_cast<T const&>(op))); }});
    }
  }
};

}  // namespace bridge
