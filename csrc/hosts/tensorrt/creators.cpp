// TensorRT as a host: the plugin library's entry points, and a creator for every op of the table.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "hosts/tensorrt/plugin/plugin.h"

#define BRIDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace bridge {
namespace {

class Creator final : public trt::PluginCreator {
 public:
  explicit Creator(OpType const& type) : type_(type), prototype_(type.create()), fields_(storage_.names(*prototype_)) {}

  trt::PluginV3* create_plugin(char const*, trt::FieldCollection const* fields, int32_t phase) noexcept override {
    return guarded<trt::PluginV3*>(type_.name.c_str(), "createPlugin", nullptr, [&] {
      PluginOp op{type_, type_.create(), {}};
      if (phase == trt::kPhaseRuntime) op.op->workspace_capability = 0;  // an engine's, unless it says otherwise
      op.given = read_fields(type_, *op.op, fields);
      return new Plugin(std::move(op));
    });
  }
  trt::FieldCollection const* field_names() noexcept override { return fields_; }
  char const* plugin_name() const noexcept override { return type_.name.c_str(); }
  char const* plugin_version() const noexcept override { return kVersion; }
  char const* plugin_namespace() const noexcept override { return kNamespace; }

 private:
  OpType const& type_;
  std::unique_ptr<Op> prototype_;
  FieldStorage storage_;
  trt::FieldCollection const* fields_;
};

// Made when first asked for, when every op has registered; lives as long as the process, for registries keep the
// pointers.
std::vector<trt::Versioned*> const& creators() {
  static auto const* all = [] {
    auto* list = new std::vector<trt::Versioned*>();
    for (OpType const* type : op_table()) list->push_back(new Creator(*type));
    return list;
  }();
  return *all;
}

// Those that getCreators gives: all, but for what bridge_leave_out named.
std::vector<trt::Versioned*>& offered() {
  static auto* list = new std::vector<trt::Versioned*>(creators());
  return *list;
}

}  // namespace
}  // namespace bridge

// Has getCreators leave out some plugins from now on, and no others: a registry takes no library of which it has a
// plugin already. names: null where count is 0.
BRIDGE_EXPORT void bridge_leave_out(char const* const* names, int32_t count) {
  auto& list = bridge::offered();
  list.clear();
  for (bridge::trt::Versioned* each : bridge::creators()) {
    char const* own = static_cast<bridge::Creator*>(each)->plugin_name();
    auto const is_own = [own](char const* name) { return std::strcmp(name, own) == 0; };
    if (std::none_of(names, names + count, is_own)) list.push_back(each);
  }
}

BRIDGE_EXPORT bridge::trt::Versioned* const* getCreators(int32_t& count) {
  try {
    auto const& all = bridge::offered();
    count = static_cast<int32_t>(all.size());
    return all.data();
  } catch (...) {
    count = 0;
    return nullptr;
  }
}

BRIDGE_EXPORT void setLoggerFinder(void*) {}
