// The GPU that ops run on.
#pragma once

#include <cuda_runtime_api.h>

namespace bridge {

struct Device {
  int capability = 0, multiprocessors = 0;  // 0: there is none
};

// Kernels are chosen, and tactics offered, for this one on this thread where it is any, whatever GPU there is.
inline thread_local Device supposed_device{};

inline Device current_device() {
  if (supposed_device.capability != 0) return supposed_device;
  int device = 0, major = 0, minor = 0, multiprocessors = 0;
  bool const known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return known ? Device{10 * major + minor, multiprocessors} : Device{};
}

}  // namespace bridge
