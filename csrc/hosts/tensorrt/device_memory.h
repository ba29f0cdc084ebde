// Memory that a plugin owns for as long as its context lives.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace bridge {

// Memory of the current device. It may be asked for while a stream is captured into a CUDA graph.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (cudaMalloc(&data_, bytes) != cudaSuccess) {
      data_ = nullptr;
      cudaGetLastError();  // clears it: whoever asked does without
    }
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  DeviceMemory(DeviceMemory const&) = delete;
  DeviceMemory& operator=(DeviceMemory const&) = delete;
  ~DeviceMemory() { cudaFree(data_); }

  void* data() const { return data_; }
  bool filled = false;

 private:
  void* data_ = nullptr;
};

}  // namespace bridge
