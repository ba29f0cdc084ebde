// Checks of what comes from outside: sizes, dtypes, attributes, and what a host hands over.
#pragma once

#include <sstream>
#include <stdexcept>

namespace bridge {

// Throws std::invalid_argument with the values streamed after one another; hosts turn it into their own kind of error.
template <class... Values>
void require(bool condition, Values const&... values) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << values);
  throw std::invalid_argument(text.str());
}

}  // namespace bridge
