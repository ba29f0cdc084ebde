// An op's attributes as plugin fields, in both directions.
#pragma once

#include <string>
#include <vector>

#include "core/op.h"
#include "hosts/tensorrt/abi.h"

namespace bridge {

// The string field that names the tensors given, such as "x,offset,weight=,mask". Without it they fill the signature in
// order. A tensor marked with "=" never changes: it is a constant of the network, and the engine is not refitted.
constexpr char const* kTensorsField = "tensors";

// Sets the attributes that the collection names; throws for a name that is unknown or given twice, or a value of the
// wrong type or length. A number may come as up to three float32 values that add up to it: ONNX has nothing wider.
// Returns the value of the field `tensors`, empty when there is none.
std::string read_fields(OpType const& type, Op& op, trt::FieldCollection const* collection);

// Index in the signature of each tensor given. Throws for unknown names, a wrong order, or a required tensor left out.
std::vector<int> input_slots(OpType const& type, std::string const& names, int count);
// Whether the field marks the tensor as one that never changes.
bool is_constant(std::string const& names, char const* tensor);

// Owns what a FieldCollection points to.
class FieldStorage {
 public:
  FieldStorage() = default;
  FieldStorage(FieldStorage const&) = delete;
  FieldStorage& operator=(FieldStorage const&) = delete;

  // The values of the op's attributes and, when given, of the field `tensors`.
  trt::FieldCollection const* values(Op& op, std::string const& inputs);
  // Names and types alone, as a creator lists them.
  trt::FieldCollection const* names(Op& op);

 private:
  void add(char const* name, int32_t type, void const* data, size_t bytes, int32_t length);
  void add(Attribute const& attribute);
  trt::FieldCollection const* finish();

  std::vector<std::vector<char>> data_;
  std::vector<trt::Field> fields_;
  trt::FieldCollection collection_{};
};

}  // namespace bridge
