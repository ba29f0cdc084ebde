// What a library of ops says of itself to the loader.
#pragma once

#include <cstdint>

#ifndef BRIDGE_NAMESPACE
#error \
    "BRIDGE_NAMESPACE is the namespace of the ops, as a string; bridge_add_ops(acme ...) of bridge's CMake package defines it"
#endif

namespace bridge {

// Of every op of this library: in PyTorch, and of its plugin.
constexpr char const* kNamespace = BRIDGE_NAMESPACE;
// The C functions `bridge_*` that the loader calls. Raise it when one of them changes.
constexpr int32_t kLoaderAbi = 1;

}  // namespace bridge
