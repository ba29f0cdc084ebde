// Integers that throw where they would wrap: extents come from outside, and products of them are counts and sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace bridge {

[[noreturn]] inline void too_large(char const* what) {
  throw std::invalid_argument(std::string("extents are too large: ") + what);
}

// A number of elements, of bytes, or of anything else that extents are multiplied to.
class Size {
 public:
  constexpr Size(int64_t value) : value_(value) {}  // NOLINT: numbers are sizes

  constexpr int64_t value() const { return value_; }
  size_t bytes() const {
    if (value_ < 0) too_large("a size is negative");
    return static_cast<size_t>(value_);
  }

  friend Size operator+(Size a, Size b) {
    int64_t sum = 0;
    if (__builtin_add_overflow(a.value_, b.value_, &sum)) too_large("a sum of them overflows");
    return sum;
  }
  friend Size operator-(Size a, Size b) {
    int64_t difference = 0;
    if (__builtin_sub_overflow(a.value_, b.value_, &difference)) too_large("a difference of them overflows");
    return difference;
  }
  friend Size operator*(Size a, Size b) {
    int64_t product = 0;
    if (__builtin_mul_overflow(a.value_, b.value_, &product)) too_large("a product of them overflows");
    return product;
  }
  // Rounded down; by nothing, it is nothing.
  friend Size floor_div(Size a, Size b) {
    if (b.value_ == 0) return 0;
    if (b.value_ == -1) return Size(0) - a;
    int64_t const quotient = a.value_ / b.value_;
    return quotient - ((a.value_ % b.value_ != 0) && ((a.value_ < 0) != (b.value_ < 0)));
  }
  friend Size ceil_div(Size a, Size b) { return Size(0) - floor_div(Size(0) - a, b); }
  friend bool operator<=(Size a, Size b) { return a.value_ <= b.value_; }
  friend bool operator>(Size a, Size b) { return a.value_ > b.value_; }

 private:
  int64_t value_;
};

// The number as an index of 32 bits, as kernels count along one axis.
inline int to_int(int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max()) too_large("2^31 or more along one axis");
  return static_cast<int>(value);
}

}  // namespace bridge
