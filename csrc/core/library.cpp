#include "library.h"

#ifndef BRIDGE_NAMESPACE
#error \
    "BRIDGE_NAMESPACE is the namespace of the ops, as a string; bridge_add_ops(acme ...) of bridge's CMake package defines it"
#endif

namespace bridge {

char const* const kNamespace = BRIDGE_NAMESPACE;

#ifdef BRIDGE_FAST_COMPILE
// bridge.core.device_code looks for it, so that no such library is shipped unnoticed.
[[gnu::used]] static char const kFastCompile[] = "bridge: kernels are compiled fast, and slow";
#endif

}  // namespace bridge
