#include "op.h"

namespace bridge {
namespace {

std::vector<OpType const*>& table() {
  static auto* ops = new std::vector<OpType const*>();  // outlives every static destructor
  return *ops;
}

OpListener& listener_slot() {
  static OpListener listener = nullptr;
  return listener;
}

}  // namespace

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

}  // namespace bridge
