// The border to TensorRT: nothing may be thrown across it.
#pragma once

#include <cstdio>
#include <exception>

#include "core/library.h"

namespace bridge {

// Runs `body`. Its errors go to stderr, for TensorRT's logger is not ours to call, and `failure` to TensorRT.
template <class Result, class Body>
Result guarded(char const* op, char const* where, Result failure, Body&& body) noexcept {
  try {
    return body();
  } catch (std::exception const& error) {
    std::fprintf(stderr, "[%s] plugin %s, %s: %s\n", kNamespace, op, where, error.what());
  } catch (...) {
    std::fprintf(stderr, "[%s] plugin %s, %s: unknown error\n", kNamespace, op, where);
  }
  return failure;
}

}  // namespace bridge
