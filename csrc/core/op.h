// The op table: what an op is to every host, and how it enters the table. Names no host.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/checked.h"

namespace bridge {

constexpr int kMaxRank = 8;

// ---- dtypes -----------------------------------------------------------------------------------

enum class DType : int32_t { kFloat32, kFloat16, kBFloat16, kInt32, kInt64, kUnsupported };

using DTypes = uint32_t;  // a set of DType, one bit each
constexpr DTypes in_set(DType type) { return 1u << static_cast<int32_t>(type); }
constexpr DTypes kFloat32 = in_set(DType::kFloat32);
constexpr DTypes kFloating = kFloat32 | in_set(DType::kFloat16) | in_set(DType::kBFloat16);
constexpr DTypes kIndex = in_set(DType::kInt32) | in_set(DType::kInt64);
constexpr DTypes kLikeFirst = 1u << 31;  // the dtype of the first input

inline char const* dtype_name(DType type) {
  constexpr char const* names[] = {"float32", "float16", "bfloat16", "int32", "int64", "an unsupported dtype"};
  return names[static_cast<int32_t>(type)];
}

inline bool accepts(DTypes set, DType type, DType first) {
  return type != DType::kUnsupported && ((set & in_set(type)) || ((set & kLikeFirst) && type == first));
}

// Calls `body` with a value of the C++ type that `type` stands for: float, half or bfloat16 given as template
// arguments.
template <class Float, class Half, class BFloat, class Body>
cudaError_t dispatch_floating(DType type, Body&& body) {
  switch (type) {
    case DType::kFloat32:
      return body(Float{});
    case DType::kFloat16:
      return body(Half{});
    case DType::kBFloat16:
      return body(BFloat{});
    default:
      return cudaErrorInvalidValue;
  }
}

// ---- extents ----------------------------------------------------------------------------------

enum class DimOp : int32_t { kSum, kProd, kMax, kMin, kSub, kFloorDiv, kCeilDiv };

// Where symbolic extents come from; implemented by a host that has them.
struct Expressions {
  virtual void const* constant(int64_t value) = 0;
  virtual void const* operation(DimOp op, void const* a, void const* b) = 0;

 protected:
  ~Expressions() = default;
};

// One extent: a number, or an expression of a host. An expression with no host behind it is merely unknown.
class Dim {
 public:
  Dim(int64_t value = 0) : value_(value) {}  // NOLINT: numbers are extents
  static Dim expression(Expressions* host, void const* handle) { return Dim(host, handle); }
  static Dim unknown() { return Dim(nullptr, nullptr); }

  bool known() const { return known_; }
  int64_t value() const { return value_; }  // meaningful when known()
  void const* handle(Expressions& host) const { return known_ ? host.constant(value_) : handle_; }

  friend Dim operator+(Dim a, Dim b) { return combine(DimOp::kSum, a, b); }
  friend Dim operator-(Dim a, Dim b) { return combine(DimOp::kSub, a, b); }
  friend Dim operator*(Dim a, Dim b) { return combine(DimOp::kProd, a, b); }
  friend Dim floor_div(Dim a, Dim b) { return combine(DimOp::kFloorDiv, a, b); }
  friend Dim ceil_div(Dim a, Dim b) { return combine(DimOp::kCeilDiv, a, b); }
  friend Dim max(Dim a, Dim b) { return combine(DimOp::kMax, a, b); }
  friend Dim min(Dim a, Dim b) { return combine(DimOp::kMin, a, b); }

  // Checks hold unless they are known to fail: an unknown extent is checked again once it is a number.
  friend bool may_equal(Dim a, Dim b) { return !a.known_ || !b.known_ || a.value_ == b.value_; }
  friend bool may_divide(Dim a, Dim b) { return !a.known_ || !b.known_ || (a.value_ > 0 && b.value_ % a.value_ == 0); }
  friend bool may_exceed(Dim a, int64_t b) { return !a.known_ || a.value_ > b; }
  friend std::ostream& operator<<(std::ostream& out, Dim dim) { return dim.known_ ? out << dim.value_ : out << '?'; }

 private:
  Dim(Expressions* host, void const* handle) : known_(false), host_(host), handle_(handle) {}
  static Dim combine(DimOp op, Dim a, Dim b);

  bool known_ = true;
  int64_t value_ = 0;
  Expressions* host_ = nullptr;
  void const* handle_ = nullptr;
};

struct Shape {
  int rank = -1;  // -1: the optional tensor is absent
  std::array<Dim, kMaxRank> dims{};

  Shape() = default;
  Shape(std::initializer_list<Dim> extents) {
    for (Dim extent : extents) append(extent);
  }
  void append(Dim extent) {
    rank = rank < 0 ? 0 : rank;
    if (rank == kMaxRank) throw std::invalid_argument("tensors have at most 8 dimensions");
    dims[rank++] = extent;
  }
  bool present() const { return rank >= 0; }
  Dim operator[](int axis) const { return dims[axis]; }
  friend std::ostream& operator<<(std::ostream& out, Shape const& shape);
};

// The order of a tensor's elements in memory. Channels last: dimension 1 of four is the innermost, then 3, 2 and 0.
// Strided: any order, but for the last dimension, whose elements lie side by side.
enum class Layout : int32_t { kLinear, kChannelsLast, kStrided };

// A tensor in device memory, row-major unless it is an input whose parameter is also taken in another layout; absent
// optional tensors have rank -1 and no data.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kUnsupported;
  int rank = -1;
  std::array<int64_t, kMaxRank> sizes{};
  Layout layout = Layout::kLinear;
  std::array<int64_t, kMaxRank> strides{};  // in elements, where the layout is kStrided

  // Elements from one index of a dimension to the next; not of channels-last tensors.
  int64_t stride(int axis) const {
    if (layout == Layout::kStrided) return strides[axis];
    Size step = 1;
    for (int inner = axis + 1; inner < rank; ++inner) step = step * sizes[inner];
    return step.value();
  }
  bool present() const { return rank >= 0; }
  int64_t operator[](int axis) const { return sizes[axis]; }
  int64_t numel() const {
    Size count = 1;
    for (int axis = 0; axis < rank; ++axis) count = count * sizes[axis];
    return count.value();
  }
};

// Throws std::invalid_argument with the values streamed after one another; hosts turn it into their own kind of error.
template <class... Values>
void require(bool condition, Values const&... values) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << values);
  throw std::invalid_argument(text.str());
}

// That a tensor of the op has the shape, as far as extents are known.
inline void require_shape(char const* op, char const* tensor, Shape const& shape, Shape const& expected) {
  bool same = shape.rank == expected.rank;
  for (int axis = 0; same && axis < shape.rank; ++axis) same = may_equal(shape[axis], expected[axis]);
  require(same, op, ": ", tensor, " has shape ", shape, ", expected ", expected);
}

// ---- ops --------------------------------------------------------------------------------------

struct Param {
  char const* name;
  DTypes types;
  bool optional = false;
  Layout also = Layout::kLinear;  // another layout that it is taken in, as it comes: the op looks at Tensor::layout
  bool counted = false;           // an output whose first extent depends on values, see `counted`
};

// The parameter, of an op whose kernels read it in that layout too.
constexpr Param or_channels_last(Param param) {
  param.also = Layout::kChannelsLast;
  return param;
}
constexpr Param or_strided(Param param) {
  param.also = Layout::kStrided;
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

struct Attribute {
  char const* name;
  AttributeValue value;
};

// An op with the values of its attributes. Tensors come first in its signature, then the attributes in this order.
struct Op {
  virtual ~Op() = default;
  virtual std::vector<Attribute> attributes() { return {}; }
  // Output shapes, and every check of the inputs (require). Extents may be expressions or unknown.
  virtual void shapes(Shape const* inputs, Shape* outputs) const = 0;
  // Bytes of scratch memory for tensors of these sizes (data pointers are null). A builder may ask before it knows
  // extents, with 0 in their place, which `shapes` would refuse; and so it may for `tactics`.
  virtual size_t workspace(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return 0; }
  // Ways to compute tensors of these sizes on the current device, as numbers that stay; empty where there is but one.
  virtual std::vector<int> tactics(Tensor const* /*inputs*/, Tensor const* /*outputs*/) const { return {}; }
  int tactic = -1;  // one of them, or -1: the op chooses

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

  // Enqueues the work. Sizes have passed `shapes`. Never allocates or synchronises.
  virtual cudaError_t run(Tensor const* inputs, Tensor const* outputs, void* workspace, cudaStream_t stream) const = 0;
};

struct OpType {
  std::string name;
  std::vector<Param> inputs;
  std::vector<Param> outputs;
  std::unique_ptr<Op> (*create)();
  std::unique_ptr<Op> (*clone)(Op const&);
  mutable std::atomic<int> forced_tactic{-1};  // of calls through PyTorch

  std::string schema() const;          // as torch.library spells it, without the namespace
  std::vector<size_t> counts() const;  // the outputs that are counted, in order
};

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
    add_op(new OpType{T::name, T::inputs(), T::outputs(), [] { return std::unique_ptr<Op>(new T()); },
                      [](Op const& op) { return std::unique_ptr<Op>(new T(static_cast<T const&>(op))); }});
  }
};

// The dtypes that a parameter takes, when the first input has dtype `first`: "float32 or float16".
std::string accepted_dtypes(Param const& param, DType first);
// The inputs' dtypes against the op's parameters; throws with the tensor's name and dtype.
void check_dtypes(OpType const& type, Tensor const* inputs);
// The dtype of an output: that of the first input, or the only one its parameter allows.
DType output_dtype(Param const& output, DType first);
// That bytes, indices and strides of a tensor fit 64 bits, with extents of 0 counted as 1; throws otherwise.
void require_size(OpType const& type, Shape const& shape);
// Runs `shapes` on numbers. Throws when a check fails, an extent is negative, or bytes of a tensor overflow 64 bits.
std::vector<Shape> infer_shapes(OpType const& type, Op const& op, std::vector<Shape> const& inputs);

}  // namespace bridge
