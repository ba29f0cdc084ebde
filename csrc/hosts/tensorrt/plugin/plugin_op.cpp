#include "hosts/tensorrt/plugin/plugin_op.h"

namespace bridge {

void PluginOp::require_tensors(void const* in, int32_t num_in, void const* out, int32_t num_out) const {
  require(num_out == num_outputs(), type.name, ": got ", num_out, " outputs, expected ", num_outputs());
  auto const most = static_cast<int32_t>(type.inputs.size());
  require(num_in <= most, type.name, ": got ", num_in, " tensors, expected at most ", most);
  require(num_in >= 1, type.name, ": got ", num_in, " tensors, expected 1 or more");
  require(in && out, "tensors are null");
}

}  // namespace bridge
