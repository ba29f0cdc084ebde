// An op's attributes as plugin fields, in both directions.
#pragma once

#include <string>
#include <vector>

#include "core/op.h"
#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/slots.h"

namespace bridge {

// Sets the attributes that the collection names; throws for a name that is unknown or given twice, or a value of the
// wrong type or length. A number may come as up to three float32 values that add up to it: ONNX has nothing wider.
// Returns the value of the field `tensors`, empty when there is none.
std::string read_fields(OpType const& type, Op& op, trt::FieldCollection const* collection);

// Owns what a FieldCollection points to.
class FieldStorage {
 public:
  FieldStorage() = default;
  FieldStorage(FieldStorage const&) = delete;
  FieldStorage& operator=(FieldStorage const&) = delete;

  // The values of the op's attributes and, when given, of the field `tensors`; and kWorkspaceField where it applies.
  trt::FieldCollection const* values(Op& op, std::string const& inputs);
  // Names and types alone, as a creator lists them.
  trt::FieldCollection const* names(Op& op);

 private:
  void collect(Op& op, std::string const& inputs);
  void add(char const* name, int32_t type, void const* data, size_t bytes, int32_t length);
  void add(Attribute const& attribute);
  trt::FieldCollection const* finish();

  std::vector<std::vector<char>> data_;
  std::vector<trt::Field> fields_;
  trt::FieldCollection collection_{};
};

}  // namespace bridge
