// TensorRT as a host: the plugin library's entry points, and a creator for every op of the table.
#include <memory>
#include <vector>

#include "hosts/tensorrt/plugin/plugin.h"

#define BRIDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace bridge {
namespace {

class Creator final : public trt::PluginCreator {
 public:
  explicit Creator(OpType const& type) : type_(type), prototype_(type.create()), fields_(storage_.names(*prototype_)) {}

  trt::PluginV3* create_plugin(char const*, trt::FieldCollection const* fields, int32_t) noexcept override {
    return guarded<trt::PluginV3*>(type_.name.c_str(), "createPlugin", nullptr, [&] {
      PluginOp op{type_, type_.create(), {}};
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

}  // namespace
}  // namespace bridge

BRIDGE_EXPORT bridge::trt::Versioned* const* getCreators(int32_t& count) {
  try {
    auto const& all = bridge::creators();
    count = static_cast<int32_t>(all.size());
    return all.data();
  } catch (...) {
    count = 0;
    return nullptr;
  }
}

BRIDGE_EXPORT void setLoggerFinder(void*) {}
