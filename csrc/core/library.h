// What a library of ops says of itself to the loader.
#pragma once

#include <cstdint>

namespace bridge {

// Of every op of this library: in PyTorch, and of its plugin. core/library.cpp alone depends on it.
extern char const* const kNamespace;
// The C functions `bridge_*` that the loader calls. Raise it when one of them changes.
constexpr int32_t kLoaderAbi = 1;

}  // namespace bridge
