// An op of the table as an IPluginV3, in the namespace of its library.
#pragma once

#include <utility>

#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/plugin/build_half.h"
#include "hosts/tensorrt/plugin/plugin_op.h"
#include "hosts/tensorrt/plugin/runtime_half.h"

namespace bridge {

class Plugin final : public trt::PluginV3, public trt::PluginCore {
 public:
  explicit Plugin(PluginOp op) : op_(std::move(op)), build_(op_), runtime_(op_, *this) {}
  Plugin(Plugin const&) = delete;  // the halves know where the op is
  Plugin& operator=(Plugin const&) = delete;

  void* capability_interface(int32_t type) noexcept override;
  trt::PluginV3* clone() noexcept override;

  char const* plugin_name() const noexcept override { return op_.type.name.c_str(); }
  char const* plugin_version() const noexcept override { return kVersion; }
  char const* plugin_namespace() const noexcept override { return kNamespace; }

 private:
  PluginOp op_;
  BuildHalf build_;
  RuntimeHalf runtime_;
};

}  // namespace bridge
