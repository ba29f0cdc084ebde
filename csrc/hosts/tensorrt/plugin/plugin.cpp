#include "hosts/tensorrt/plugin/plugin.h"

#include <memory>

namespace bridge {

void* Plugin::capability_interface(int32_t type) noexcept {
  switch (type) {
    case trt::kCore:
      return static_cast<trt::PluginCore*>(this);
    case trt::kBuild:
      return static_cast<trt::PluginBuild*>(&build_);
    case trt::kRuntime:
      return static_cast<trt::PluginRuntime*>(&runtime_);
    default:
      return nullptr;
  }
}

trt::PluginV3* Plugin::clone() noexcept {
  return op_.guard<trt::PluginV3*>("clone", nullptr, [&] {
    auto copy = std::make_unique<Plugin>(op_.clone());
    copy->build_.copy_state(build_);
    copy->runtime_.copy_state(runtime_);
    return copy.release();
  });
}

}  // namespace bridge
