#include "plugin_fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace bridge {
namespace {

std::string text_of(trt::Field const& field) {
  std::string text(static_cast<char const*>(field.data), field.length);
  return text.substr(0, text.find('\0'));  // some callers count the terminator
}

template <class Stored, class Value>
std::vector<Value> widen(trt::Field const& field) {
  std::vector<Value> values;
  for (int32_t i = 0; i < field.length; ++i) {
    Stored stored;
    std::memcpy(&stored, static_cast<char const*>(field.data) + i * sizeof(Stored), sizeof(Stored));
    values.push_back(static_cast<Value>(stored));
  }
  return values;
}

[[noreturn]] void wrong_type(trt::Field const& field, char const* expected) {
  require(false, "field ", field.name, " has plugin field type ", field.type, ", expected ", expected);
  std::abort();
}

std::vector<int64_t> integers(trt::Field const& field) {
  switch (field.type) {
    case trt::kFieldInt64:
      return widen<int64_t, int64_t>(field);
    case trt::kFieldInt32:
      return widen<int32_t, int64_t>(field);
    case trt::kFieldInt8:
      return widen<int8_t, int64_t>(field);
    default:
      wrong_type(field, "INT64 or INT32");
  }
}

std::vector<double> numbers(trt::Field const& field) {
  switch (field.type) {
    case trt::kFieldFloat32:
      return widen<float, double>(field);
    case trt::kFieldFloat64:
      return widen<double, double>(field);
    default:
      wrong_type(field, "FLOAT32");
  }
}

template <class List>
auto only(trt::Field const& field, List const& values) {
  require(values.size() == 1, "field ", field.name, " has ", values.size(), " values, expected 1");
  return values[0];
}

struct Reader {
  trt::Field const& field;

  void operator()(int64_t* value) const { *value = only(field, integers(field)); }
  void operator()(bool* value) const { *value = only(field, integers(field)) != 0; }
  void operator()(double* value) const { *value = only(field, numbers(field)); }
  void operator()(std::vector<int64_t>* value) const { *value = integers(field); }
  void operator()(std::vector<double>* value) const { *value = numbers(field); }
  void operator()(std::string* value) const {
    if (field.type != trt::kFieldChar) wrong_type(field, "CHAR");
    *value = text_of(field);
  }
  void operator()(Pair* value) const {
    std::vector<int64_t> const values = integers(field);
    require(values.size() == 1 || values.size() == 2, "field ", field.name, " has ", values.size(),
            " values, expected 2");
    *value = {values.front(), values.back()};
  }
};

std::vector<std::string> split(std::string const& names) {
  std::vector<std::string> parts;
  std::istringstream stream(names);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

std::string read_fields(OpType const& type, Op& op, trt::FieldCollection const* collection) {
  std::string inputs;
  std::vector<Attribute> const attributes = op.attributes();
  for (int32_t i = 0; collection && i < collection->count; ++i) {
    trt::Field const& field = collection->fields[i];
    require(field.name && field.data, type.name, ": a plugin field has no name or no data");
    if (!std::strcmp(field.name, kTensorsField)) {
      inputs = text_of(field);
      continue;
    }
    bool found = false;
    for (Attribute const& attribute : attributes) {
      if (std::strcmp(field.name, attribute.name)) continue;
      std::visit(Reader{field}, attribute.value);
      found = true;
    }
    require(found, type.name, ": unknown plugin field \"", field.name, "\"");
  }
  return inputs;
}

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

void FieldStorage::add(char const* name, int32_t type, void const* data, size_t bytes, int32_t length) {
  auto const* first = static_cast<char const*>(data);
  data_.emplace_back(first, first + bytes);
  data_.back().reserve(1);  // a valid address for an empty list
  fields_.push_back({name, nullptr, type, length});
}

void FieldStorage::add(Attribute const& attribute) {
  auto integers = [&](int64_t const* values, size_t count) {
    add(attribute.name, trt::kFieldInt64, values, count * sizeof(int64_t), static_cast<int32_t>(count));
  };
  auto floats = [&](double const* values, size_t count) {
    std::vector<float> const narrow(values, values + count);
    add(attribute.name, trt::kFieldFloat32, narrow.data(), count * sizeof(float), static_cast<int32_t>(count));
  };
  struct Writer {
    decltype(integers)& ints;
    decltype(floats)& numbers;
    FieldStorage& storage;
    char const* name;

    void operator()(int64_t* v) const { ints(v, 1); }
    void operator()(double* v) const { numbers(v, 1); }
    void operator()(bool* v) const {
      int64_t const value = *v;
      ints(&value, 1);
    }
    void operator()(Pair* v) const { ints(v->data(), v->size()); }
    void operator()(std::vector<int64_t>* v) const { ints(v->data(), v->size()); }
    void operator()(std::vector<double>* v) const { numbers(v->data(), v->size()); }
    void operator()(std::string* v) const {
      storage.add(name, trt::kFieldChar, v->data(), v->size(), static_cast<int32_t>(v->size()));
    }
  };
  std::visit(Writer{integers, floats, *this, attribute.name}, attribute.value);
}

trt::FieldCollection const* FieldStorage::finish() {
  for (size_t i = 0; i < fields_.size(); ++i) fields_[i].data = data_[i].data();
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

trt::FieldCollection const* FieldStorage::values(Op& op, std::string const& inputs) {
  data_.clear();
  fields_.clear();
  for (Attribute const& attribute : op.attributes()) add(attribute);
  if (!inputs.empty())
    add(kTensorsField, trt::kFieldChar, inputs.data(), inputs.size(), static_cast<int32_t>(inputs.size()));
  return finish();
}

trt::FieldCollection const* FieldStorage::names(Op& op) {
  values(op, "x");
  for (trt::Field& field : fields_) field.data = nullptr, field.length = 1;
  return &collection_;
}

}  // namespace bridge
