// Python's arithmetic, for extents and numbers made of them that are computed at run time. Generation makes sure that
// no value in the profile exceeds 64 bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "../core/require.h"

namespace bridge::triton {

inline int64_t floor_div(int64_t a, int64_t b) {
  require(b != 0, "an extent is divided by 0");
  int64_t const quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
// With the sign of b.
inline int64_t floor_mod(int64_t a, int64_t b) { return a - b * floor_div(a, b); }

inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t absolute(int64_t a) { return a < 0 ? -a : a; }

inline double true_div(int64_t a, int64_t b) {
  require(b != 0, "an extent is divided by 0");
  return static_cast<double>(a) / static_cast<double>(b);
}

// Of floats.
inline double divide(double a, double b) {
  require(b != 0, "a number made of extents is divided by 0");
  return a / b;
}
inline double float_power(double base, double exponent) {
  require(base > 0 || (base == 0 && exponent >= 0) || (base < 0 && std::floor(exponent) == exponent), base,
          ", made of extents, has no power of ", exponent);
  return std::pow(base, exponent);
}

inline int64_t power(int64_t base, int64_t exponent) {
  require(exponent >= 0, "an extent has the negative exponent ", exponent);
  int64_t product = 1;
  for (; exponent > 0; --exponent) product *= base;
  return product;
}

}  // namespace bridge::triton
