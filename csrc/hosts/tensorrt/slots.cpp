#include "hosts/tensorrt/slots.h"

#include <algorithm>
#include <numeric>
#include <sstream>

namespace bridge {
namespace {

std::vector<std::string> split(std::string const& names) {
  std::vector<std::string> parts;
  std::istringstream stream(names);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

std::vector<int> input_slots(OpType const& type, std::string const& names, int count) {
  std::vector<int> slots;
  if (names.empty()) {
    slots.resize(count);
    std::iota(slots.begin(), slots.end(), 0);
  }
  for (std::string name : split(names)) {
    if (!name.empty() && name.back() == '=') name.pop_back();
    int slot = -1;
    for (size_t i = 0; i < type.inputs.size(); ++i) {
      if (name == type.inputs[i].name) slot = static_cast<int>(i);
    }
    require(slot >= 0, type.name, ": the field tensors names an unknown tensor \"", name, "\"");
    require(slots.empty() || slot > slots.back(), type.name, ": the field tensors is \"", names,
            "\", not in the signature's order");
    slots.push_back(slot);
  }
  require(static_cast<int>(slots.size()) == count && count <= static_cast<int>(type.inputs.size()), type.name, ": got ",
          count, " tensors, expected ", names.empty() ? "at most " + std::to_string(type.inputs.size()) : names);
  for (size_t i = 0, next = 0; i < type.inputs.size(); ++i) {
    bool const given = next < slots.size() && slots[next] == static_cast<int>(i);
    next += given;
    require(given || type.inputs[i].optional, type.name, ": the tensor ", type.inputs[i].name, " is missing");
  }
  return slots;
}

bool is_constant(std::string const& names, char const* tensor) {
  std::vector<std::string> const parts = split(names);
  return std::find(parts.begin(), parts.end(), std::string(tensor) + "=") != parts.end();
}

}  // namespace bridge
