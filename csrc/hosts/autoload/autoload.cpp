// libbridge_autoload.so: when it is loaded, it registers the plugin libraries in its folder with every TensorRT in the
// process. It is for hosts that only dlopen: LD_PRELOAD, Triton's `plugins=`, trtexec's --staticPlugins, ONNX Runtime.
// It links nothing of TensorRT. A plugin that is registered already is left as it is, so loading it twice, or beside
// the plugin libraries, is harmless.
//
// A TensorRT that is loaded later is not seen. IPluginRegistry::loadLibrary with this file gives it the plugins then.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/registry.h"

#define BRIDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace bridge {
namespace {

namespace fs = std::filesystem;

void say(std::string const& text) { std::fprintf(stderr, "[bridge] %s\n", text.c_str()); }

bool starts_with(std::string const& text, std::string const& start) { return text.rfind(start, 0) == 0; }

bool ends_with(std::string const& text, std::string const& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

template <class Function>
Function* symbol(void* library, char const* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

// ---- the runtimes of the process ----

struct Runtime {
  std::string name;
  void* registry;
  trt::RegistrySlots slots;
};

bool is_runtime(std::string const& name) {
  return starts_with(name, "libtensorrt_rtx.so") || starts_with(name, "libnvinfer.so") ||
         starts_with(name, "libnvinfer_lean.so") || starts_with(name, "libnvinfer_dispatch.so");
}

// The loaded files that are runtimes. A runtime may be loaded for its user alone, where RTLD_DEFAULT does not find it.
std::vector<fs::path> runtime_files() {
  std::vector<fs::path> found;
  auto const add = [](dl_phdr_info* object, size_t, void* paths) {
    fs::path const path = object->dlpi_name;
    if (is_runtime(path.filename())) static_cast<std::vector<fs::path>*>(paths)->push_back(path);
    return 0;
  };
  dl_iterate_phdr(add, &found);
  return found;
}

std::optional<Runtime> open_runtime(fs::path const& path) {
  void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return {};
  auto* const registry = symbol<void*()>(library, "getPluginRegistry");
  auto* const version = symbol<int32_t()>(library, "getInferLibVersion");
  if (registry == nullptr || version == nullptr) return {};
  std::string const name = path.filename();
  for (trt::RegistryVersions const& known : trt::kRegistries) {
    bool const is_known = version() >= known.first && version() < known.end;
    if (is_known && starts_with(name, known.library)) return Runtime{name, registry(), known.slots};
  }
  say(name + " has version " + std::to_string(version()) +
      ", whose registry is not known here; load the plugin libraries with IPluginRegistry::loadLibrary");
  return {};
}

std::vector<Runtime> runtimes() {
  std::vector<Runtime> found;
  for (fs::path const& path : runtime_files()) {
    if (auto runtime = open_runtime(path); runtime && runtime->registry != nullptr) found.push_back(*runtime);
  }
  return found;
}

// ---- the plugin libraries ----

using Creators = std::vector<trt::PluginCreator*>;

fs::path own_folder() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&own_folder), &info);
  return fs::absolute(info.dli_fname).parent_path();
}

// Adds the creators of one library. It stays loaded, because registries keep pointers into it.
void add_creators(fs::path const& path, Creators& creators) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) return say(path.string() + " does not load: " + dlerror());
  auto* const get = symbol<trt::Versioned* const*(int32_t&)>(library, "getCreators");
  if (get == nullptr || dlsym(library, "bridge_loader_abi") == nullptr) {
    return say(path.string() + " is no plugin library of bridge's, and is passed over");
  }
  int32_t count = 0;
  trt::Versioned* const* const all = get(count);
  for (int32_t i = 0; i < count; ++i) creators.push_back(static_cast<trt::PluginCreator*>(all[i]));
}

// Of all plugin libraries in this one's folder, by name.
Creators const& creators() {
  static Creators const* const all = [] {
    auto* const found = new Creators();
    std::vector<fs::path> paths;
    std::error_code error;
    for (auto const& entry : fs::directory_iterator(own_folder(), error)) {
      std::string const name = entry.path().filename();
      if (starts_with(name, "lib") && ends_with(name, "_plugins.so")) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    for (fs::path const& path : paths) add_creators(path, *found);
    if (found->empty()) say("there is no plugin library in " + own_folder().string());
    return found;
  }();
  return *all;
}

// ---- registration ----

void register_with(Runtime const& runtime) {
  for (trt::PluginCreator* creator : creators()) {
    char const* const space = creator->plugin_namespace();
    void* const known = trt::call_slot<void*>(runtime.registry, runtime.slots.get_creator, creator->plugin_name(),
                                              creator->plugin_version(), space);
    if (known != nullptr) continue;
    if (!trt::call_slot<bool>(runtime.registry, runtime.slots.register_creator, creator, space)) {
      say(runtime.name + " does not register the plugin " + space + "::" + creator->plugin_name());
    }
  }
}

// Whether there was a runtime to register with.
bool register_all() {
  std::vector<Runtime> const found = runtimes();
  for (Runtime const& runtime : found) register_with(runtime);
  return !found.empty();
}

bool registered_at_load = false;

__attribute__((constructor)) void at_load() {
  try {
    registered_at_load = register_all();
    if (!registered_at_load) {
      say("no TensorRT is loaded yet, so no plugin is registered; load it first, or call loadLibrary with this file");
    }
  } catch (std::exception const& error) {
    say(std::string("no plugin is registered: ") + error.what());
  }
}

}  // namespace
}  // namespace bridge

// IPluginRegistry::loadLibrary calls it, and registers what it gives: all plugins, unless they were registered at load.
BRIDGE_EXPORT bridge::trt::Versioned* const* getCreators(int32_t& count) {
  count = 0;
  try {
    if (bridge::registered_at_load) {
      bridge::register_all();  // with a runtime that came later
      return nullptr;
    }
    auto const& all = bridge::creators();
    static auto const* const offered = new std::vector<bridge::trt::Versioned*>(all.begin(), all.end());
    count = static_cast<int32_t>(offered->size());
    return offered->data();
  } catch (...) {
    return nullptr;
  }
}

BRIDGE_EXPORT void setLoggerFinder(void*) {}
