#include "library.h"

#ifndef BRIDGE_NAMESPACE
#error \
    "BRIDGE_NAMESPACE is the namespace of the ops, as a string; bridge_add_ops(acme ...) of bridge's CMake package defines it"
#endif

namespace bridge {

char const* const kNamespace = BRIDGE_NAMESPACE;

}  // namespace bridge
