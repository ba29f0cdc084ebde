// TensorRT's registry of plugins, declared by us like abi.h: the places of two virtual functions, which differ between
// versions. TensorRT 11 dropped four functions that TensorRT 10 has, TensorRT-RTX 1.5 those of 1.4. check_abi.cpp
// compares them with an SDK's headers.
#pragma once

#include <cstdint>

namespace bridge::trt {

struct RegistrySlots {
  int32_t register_creator;  // bool(IPluginCreatorInterface&, char const* namespace)
  int32_t get_creator;       // IPluginCreatorInterface*(char const* name, char const* version, char const* namespace)
};

struct RegistryVersions {
  char const* library;  // how the name of the runtime's file begins
  int32_t first, end;   // of what getInferLibVersion gives, 10000 * major + 100 * minor + patch; end is not one of them
  RegistrySlots slots;
};

constexpr RegistrySlots kRegistry10{12, 14};
constexpr RegistrySlots kRegistry11{8, 10};
constexpr RegistryVersions kRegistries[] = {
    {"libnvinfer", 100000, 110000, kRegistry10},
    {"libnvinfer", 110000, 120000, kRegistry11},
    {"libtensorrt_rtx", 10500, 20000, kRegistry11},
};

// Calls a virtual function of an object by its slot (Itanium C++ ABI).
template <class Result, class... Arguments>
Result call_slot(void* object, int32_t slot, Arguments... arguments) {
  void** const table = *static_cast<void***>(object);
  return reinterpret_cast<Result (*)(void*, Arguments...)>(table[slot])(object, arguments...);
}

}  // namespace bridge::trt
