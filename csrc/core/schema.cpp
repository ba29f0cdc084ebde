#include <cmath>
#include <sstream>

#include "op.h"

namespace bridge {
namespace {

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

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

// As a schema spells a string: with its quotes.
std::string quoted(std::string const& text) {
  std::string spelled = "\"";
  for (char letter : text) spelled += (letter == '"' || letter == '\\' ? "\\" : "") + std::string(1, letter);
  return spelled + "\"";
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
                        [&](std::string* v) { return "str " + name + "=" + quoted(*v); },
                        [&](Pair* v) {
                          return "int[2] " + name + "=" +
                                 ((*v)[0] == (*v)[1] ? integer((*v)[0]) : list_text(*v, integer));
                        },
                        [&](std::vector<int64_t>* v) { return "int[] " + name + "=" + list_text(*v, integer); },
                        [&](std::vector<double>* v) { return "float[] " + name + "=" + list_text(*v, float_text); },
                    },
                    attribute.value);
}

}  // namespace

std::string schema(OpType const& type) {
  std::string arguments, results;
  for (Param const& input : type.inputs) {
    arguments += (arguments.empty() ? "" : ", ");
    arguments += input.optional ? std::string("Tensor? ") + input.name + "=None" : std::string("Tensor ") + input.name;
  }
  std::unique_ptr<Op> const op = type.create();
  for (Attribute const& attribute : op->attributes()) arguments += ", " + attribute_schema(attribute);
  for (size_t i = 0; i < type.outputs.size(); ++i) results += i ? ", Tensor" : "Tensor";
  return type.name + "(" + arguments + ") -> " + (type.outputs.size() == 1 ? results : "(" + results + ")");
}

}  // namespace bridge
