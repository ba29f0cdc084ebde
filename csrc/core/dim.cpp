#include "dim.h"

#include <algorithm>

#include "checked.h"

namespace bridge {
namespace {

int64_t evaluate(DimOp op, int64_t a, int64_t b) {
  switch (op) {
    case DimOp::kSum:
      return (Size(a) + b).value();
    case DimOp::kSub:
      return (Size(a) - b).value();
    case DimOp::kProd:
      return (Size(a) * b).value();
    case DimOp::kMax:
      return std::max(a, b);
    case DimOp::kMin:
      return std::min(a, b);
    case DimOp::kFloorDiv:
      return floor_div(Size(a), b).value();
    case DimOp::kCeilDiv:
      return ceil_div(Size(a), b).value();
  }
  return 0;
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

}  // namespace bridge
