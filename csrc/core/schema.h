// An op's signature as text.
#pragma once

#include <string>

#include "op.h"

namespace bridge {

// As torch.library spells it, without the namespace. A default of infinity is spelt None: a schema has no word for it.
std::string schema(OpType const& type);

}  // namespace bridge
