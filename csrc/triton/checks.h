// That a generated op is called as it was generated for.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "../core/dim.h"
#include "../core/op.h"
#include "../core/require.h"

namespace bridge::triton {

// A shape, of rank 0 where there is no extent.
inline Shape shape(std::initializer_list<Dim> extents) {
  Shape shape;
  shape.rank = 0;
  for (Dim extent : extents) shape.append(extent);
  return shape;
}

inline void require_present(char const* op, char const* tensor, Shape const& shape, bool expected) {
  require(shape.present() == expected, op, ": ", tensor, expected ? " is absent" : " is given",
          ", and the op was generated for calls ", expected ? "with" : "without", " it");
}

// That an extent lies in the profile.
inline void require_range(char const* op, char const* tensor, int axis, Dim extent, int64_t low, int64_t high) {
  require(!extent.known() || (low <= extent.value() && extent.value() <= high), op, ": ", tensor, " has extent ",
          extent, " in dimension ", axis, ", and the op was generated for ", low, " to ", high);
}

// Floats are compared as hosts may hold them, in single precision.
inline bool same(double a, double b) {
  return static_cast<float>(a) == static_cast<float>(b) || (std::isnan(a) && std::isnan(b));
}
inline bool same(int64_t a, int64_t b) { return a == b; }
inline bool same(bool a, bool b) { return a == b; }
inline bool same(std::string const& a, std::string const& b) { return a == b; }
template <class List>
bool same(List const& a, List const& b) {
  bool equal = a.size() == b.size();
  for (size_t i = 0; equal && i < a.size(); ++i) equal = same(a[i], b[i]);
  return equal;
}

template <class Value>
void show(std::ostream& out, Value const& value) {
  if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
    out << std::boolalpha << value;
  } else {
    char const* separator = "[";
    for (auto const& item : value) out << separator << item, separator = ", ";
    out << (value.empty() ? "[]" : "]");
  }
}

// That an attribute has the value that is part of the kernels.
template <class Value>
void require_value(char const* op, char const* attribute, Value const& value, Value const& expected) {
  if (same(value, expected)) return;
  std::ostringstream text;
  text.precision(9);
  text << op << ": " << attribute << " is ";
  show(text, value);
  text << ", and the op was generated for ";
  show(text, expected);
  require(false, text.str());
}

}  // namespace bridge::triton
