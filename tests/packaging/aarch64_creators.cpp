// Lists the creators of a plugin library: namespace::name, a line each. Built for aarch64 and run by an emulator.
#include <dlfcn.h>

#include <cstdio>

#include "hosts/tensorrt/abi.h"

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "creators LIBRARY\n"), 2;
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  using GetCreators = bridge::trt::PluginCreator* const* (*)(int32_t&);
  auto get = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  if (!get) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  int32_t count = 0;
  auto creators = get(count);
  for (int32_t i = 0; i < count; ++i)
    std::printf("%s::%s\n", creators[i]->plugin_namespace(), creators[i]->plugin_name());
}
