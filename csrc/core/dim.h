// Extents and shapes, of which a host may know no more than an expression.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "require.h"

namespace bridge {

constexpr int kMaxRank = 8;

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
    require(rank < kMaxRank, "tensors have at most ", kMaxRank, " dimensions");
    dims[rank++] = extent;
  }
  bool present() const { return rank >= 0; }
  Dim operator[](int axis) const { return dims[axis]; }
  friend std::ostream& operator<<(std::ostream& out, Shape const& shape);
};

// That a tensor of the op has the shape, as far as extents are known.
inline void require_shape(char const* op, char const* tensor, Shape const& shape, Shape const& expected) {
  bool same = shape.rank == expected.rank;
  for (int axis = 0; same && axis < shape.rank; ++axis) same = may_equal(shape[axis], expected[axis]);
  require(same, op, ": ", tensor, " has shape ", shape, ", expected ", expected);
}

}  // namespace bridge
