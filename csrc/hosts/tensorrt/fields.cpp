#include "hosts/tensorrt/fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "core/device.h"

namespace bridge {
namespace {

// A field says itself how long it is. No attribute is longer than this, whatever the field says.
constexpr int32_t kMostValues = 1 << 14;
// The most float32 values that it takes to add up to a double.
constexpr int32_t kMostParts = 3;

void require_length(trt::Field const& field, int32_t least, int32_t most) {
  require(field.length >= least && field.length <= most, "field ", field.name, " has ", field.length,
          " values, expected ", least == most ? "" : "at most ", most);
}

[[noreturn]] void wrong_type(trt::Field const& field, char const* expected) {
  require(false, "field ", field.name, " has plugin field type ", field.type, ", expected ", expected);
  std::abort();
}

std::string text_of(trt::Field const& field) {
  if (field.type != trt::kFieldChar) wrong_type(field, "CHAR");
  require_length(field, 0, kMostValues);
  std::string text(static_cast<char const*>(field.data), field.length);
  return text.substr(0, text.find('\0'));  // some callers count the terminator
}

template <class Stored, class Value>
std::vector<Value> widen(trt::Field const& field, int32_t least, int32_t most) {
  require_length(field, least, most);
  std::vector<Value> values;
  for (int32_t i = 0; i < field.length; ++i) {
    Stored stored;
    std::memcpy(&stored, static_cast<char const*>(field.data) + i * sizeof(Stored), sizeof(Stored));
    values.push_back(static_cast<Value>(stored));
  }
  return values;
}

std::vector<int64_t> integers(trt::Field const& field, int32_t least, int32_t most) {
  switch (field.type) {
    case trt::kFieldInt64:
      return widen<int64_t, int64_t>(field, least, most);
    case trt::kFieldInt32:
      return widen<int32_t, int64_t>(field, least, most);
    case trt::kFieldInt8:
      return widen<int8_t, int64_t>(field, least, most);
    default:
      wrong_type(field, "INT64 or INT32");
  }
}

std::vector<double> numbers(trt::Field const& field, int32_t least, int32_t most) {
  switch (field.type) {
    case trt::kFieldFloat32:
      return widen<float, double>(field, least, most);
    case trt::kFieldFloat64:
      return widen<double, double>(field, least, most);
    default:
      wrong_type(field, "FLOAT32");
  }
}

// The float32 values that add up to a number, greatest first.
std::vector<float> parts_of(double value) {
  std::vector<float> parts;
  do {
    parts.push_back(static_cast<float>(value));
    value -= parts.back();
  } while (value != 0 && std::isfinite(value) && parts.size() < kMostParts);
  return parts;
}

double number(trt::Field const& field) {
  std::vector<double> const values = numbers(field, 1, field.type == trt::kFieldFloat32 ? kMostParts : 1);
  double const sum = std::accumulate(values.begin(), values.end(), 0.0);
  std::vector<float> const parts = parts_of(sum);
  bool const adds_up = values.size() == 1 || std::equal(values.begin(), values.end(), parts.begin(), parts.end());
  require(adds_up, "field ", field.name, " has ", values.size(), " values, expected 1");
  return sum;
}

struct Reader {
  trt::Field const& field;

  void operator()(int64_t* value) const { *value = integers(field, 1, 1)[0]; }
  void operator()(bool* value) const { *value = integers(field, 1, 1)[0] != 0; }
  void operator()(double* value) const { *value = number(field); }
  void operator()(std::vector<int64_t>* value) const { *value = integers(field, 0, kMostValues); }
  void operator()(std::vector<double>* value) const { *value = numbers(field, 0, kMostValues); }
  void operator()(std::string* value) const { *value = text_of(field); }
  void operator()(Pair* value) const {
    std::vector<int64_t> const values = integers(field, 1, 2);
    *value = {values.front(), values.back()};
  }
};

}  // namespace

std::string read_fields(OpType const& type, Op& op, trt::FieldCollection const* collection) {
  std::string inputs;
  std::vector<Attribute> const attributes = op.attributes();
  std::set<std::string> given;
  require(!collection || collection->count <= 0 || collection->fields, type.name, ": the plugin fields are null");
  for (int32_t i = 0; collection && i < collection->count; ++i) {
    trt::Field const& field = collection->fields[i];
    require(field.name && field.data, type.name, ": a plugin field has no name or no data");
    require(given.insert(field.name).second, type.name, ": the plugin field ", field.name, " is given twice");
    if (!std::strcmp(field.name, kTensorsField)) {
      inputs = text_of(field);
      continue;
    }
    if (op.capability_with_workspace() && !std::strcmp(field.name, kWorkspaceField)) {
      op.workspace_capability = static_cast<int>(integers(field, 1, 1).front());
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
  auto floats = [&](std::vector<float> const& narrow) {
    size_t const count = narrow.size();
    add(attribute.name, trt::kFieldFloat32, narrow.data(), count * sizeof(float), static_cast<int32_t>(count));
  };
  struct Writer {
    decltype(integers)& ints;
    decltype(floats)& numbers;
    FieldStorage& storage;
    char const* name;

    void operator()(int64_t* v) const { ints(v, 1); }
    void operator()(double* v) const { numbers(parts_of(*v)); }
    void operator()(bool* v) const {
      int64_t const value = *v;
      ints(&value, 1);
    }
    void operator()(Pair* v) const { ints(v->data(), v->size()); }
    void operator()(std::vector<int64_t>* v) const { ints(v->data(), v->size()); }
    void operator()(std::vector<double>* v) const { numbers({v->begin(), v->end()}); }
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

void FieldStorage::collect(Op& op, std::string const& inputs) {
  data_.clear();
  fields_.clear();
  for (Attribute const& attribute : op.attributes()) add(attribute);
  if (!inputs.empty())
    add(kTensorsField, trt::kFieldChar, inputs.data(), inputs.size(), static_cast<int32_t>(inputs.size()));
}

trt::FieldCollection const* FieldStorage::values(Op& op, std::string const& inputs) {
  collect(op, inputs);
  int64_t const wanted = op.capability_with_workspace();
  int const asked = op.workspace_capability < 0 && wanted ? current_device().capability : op.workspace_capability;
  if (wanted && asked == wanted) add(kWorkspaceField, trt::kFieldInt64, &wanted, sizeof(wanted), 1);
  return finish();
}

trt::FieldCollection const* FieldStorage::names(Op& op) {
  collect(op, "x");
  finish();
  for (trt::Field& field : fields_) field.data = nullptr, field.length = 1;
  return &collection_;
}

}  // namespace bridge
