#include "core/op.h"

#include <algorithm>
#include <cmath>

namespace bridge {
namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

int64_t evaluate(DimOp op, int64_t a, int64_t b) {
  switch (op) {
    case DimOp::kSum:
      return (Size(a) + b).value();
    case DimOp::kSub:
      return (Size(a) - b).value();
    case DimOp::kProd:
      return (Size(a) * b).value();
    case DimOp::kMax:
      return a > b ? a : b;
    case DimOp::kMin:
      return a < b ? a : b;
    case DimOp::kFloorDiv:
      return floor_div(Size(a), b).value();
    case DimOp::kCeilDiv:
      return ceil_div(Size(a), b).value();
  }
  return 0;
}

// 0.0 → "0.", 0.25 → "0.25": the shortest text that reads back the same, as PyTorch prints it.
std::string float_text(double value) {
  std::string best;
  for (int digits = 1; digits <= 17; ++digits) {
    std::ostringstream text;
    text.precision(digits);
    text << value;
    best = text.str();
    if (std::stod(best) == value) break;
  }
  return best.find_first_of(".e") == std::string::npos ? best + "." : best;
}

template <class List, class Text>
std::string list_text(List const& list, Text&& text) {
  std::string joined;
  for (auto const& item : list) joined += (joined.empty() ? "" : ", ") + text(item);
  return "[" + joined + "]";
}

std::string attribute_schema(Attribute const& attribute) {
  std::string const name = attribute.name;
  auto integer = [](int64_t value) { return std::to_string(value); };
  return std::visit(Overloaded{
                        [&](int64_t* v) { return "int " + name + "=" + integer(*v); },
                        // A schema has no word for infinity: None stands for it.
                        [&](double* v) {
                          return std::isinf(*v) ? "float? " + name + "=None" : "float " + name + "=" + float_text(*v);
                        },
                        [&](bool* v) { return "bool " + name + "=" + (*v ? "True" : "False"); },
                        [&](std::string* v) { return "str " + name + "=\"" + *v + "\""; },
                        [&](Pair* v) {
                          return "int[2] " + name + "=" +
                                 ((*v)[0] == (*v)[1] ? integer((*v)[0]) : list_text(*v, integer));
                        },
                        [&](std::vector<int64_t>* v) { return "int[] " + name + "=" + list_text(*v, integer); },
                        [&](std::vector<double>* v) { return "float[] " + name + "=" + list_text(*v, float_text); },
                    },
                    attribute.value);
}

std::vector<OpType const*>& table() {
  static auto* ops = new std::vector<OpType const*>();  // outlives every static destructor
  return *ops;
}

OpListener& listener_slot() {
  static OpListener listener = nullptr;
  return listener;
}

}  // namespace

Dim Dim::combine(DimOp op, Dim a, Dim b) {
  if (a.known_ && b.known_) return evaluate(op, a.value_, b.value_);
  Expressions* host = a.known_ ? b.host_ : a.host_;
  if (!host || (!a.known_ && !a.host_) || (!b.known_ && !b.host_)) return unknown();
  return expression(host, host->operation(op, a.handle(*host), b.handle(*host)));
}

std::ostream& operator<<(std::ostream& out, Shape const& shape) {
  out << '[';
  for (int axis = 0; axis < shape.rank; ++axis) out << (axis ? ", " : "") << shape[axis];
  return out << ']';
}

std::string OpType::schema() const {
  std::string arguments, results;
  for (Param const& input : inputs) {
    arguments += (arguments.empty() ? "" : ", ");
    arguments += input.optional ? std::string("Tensor? ") + input.name + "=None" : std::string("Tensor ") + input.name;
  }
  std::unique_ptr<Op> const op = create();
  for (Attribute const& attribute : op->attributes()) arguments += ", " + attribute_schema(attribute);
  for (size_t i = 0; i < outputs.size(); ++i) results += i ? ", Tensor" : "Tensor";
  return name + "(" + arguments + ") -> " + (outputs.size() == 1 ? results : "(" + results + ")");
}

std::vector<size_t> OpType::counts() const {
  std::vector<size_t> found;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].counted) found.push_back(i);
  }
  return found;
}

std::vector<OpType const*> const& op_table() { return table(); }

OpType const* find_op(std::string const& name) {
  for (OpType const* type : table()) {
    if (type->name == name) return type;
  }
  return nullptr;
}

void add_op(OpType* type) {
  table().push_back(type);
  if (listener_slot()) listener_slot()(*type, table().size() - 1);
}

void listen(OpListener listener) {
  for (size_t i = 0; i < table().size(); ++i) listener(*table()[i], i);
  listener_slot() = listener;
}

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt32, DType::kInt64};

DType output_dtype(Param const& output, DType first) {
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

void check_dtypes(OpType const& type, Tensor const* inputs) {
  for (size_t i = 0; i < type.inputs.size(); ++i) {
    Param const& param = type.inputs[i];
    if (!inputs[i].present() || accepts(param.types, inputs[i].dtype, inputs[0].dtype)) continue;
    require(false, type.name, ": ", param.name, " is ", dtype_name(inputs[i].dtype), ", expected ",
            accepted_dtypes(param, inputs[0].dtype));
  }
}

void require_size(OpType const& type, Shape const& shape) {
  constexpr int64_t kWidest = sizeof(int64_t);  // bytes of an element
  Size bytes = kWidest;
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

}  // namespace bridge
