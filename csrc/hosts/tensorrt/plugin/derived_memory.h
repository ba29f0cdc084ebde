// What an op derives from a constant input, such as weights in another order: kept for as long as the context lives.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <vector>

#include "core/op.h"

namespace bridge {

// Memory of the current device. It may be asked for while a stream is captured into a CUDA graph.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  DeviceMemory(DeviceMemory const&) = delete;
  DeviceMemory& operator=(DeviceMemory const&) = delete;
  ~DeviceMemory() { cudaFree(data_); }

  void* data() const { return data_; }  // null where there was none left
  bool filled = false;

 private:
  void* data_ = nullptr;
};

class DerivedMemory {
 public:
  // Memory for what the op derives in this way, where it is of no known way yet.
  void make_room(Op::Derived const& derived);
  // What was derived in this way, for tensors of these sizes; null where the op must do it itself in `run`.
  void const* of(Op::Derived const& derived, Op const& op, Tensor const* inputs, Tensor const* outputs,
                 cudaStream_t stream);

 private:
  std::map<int, DeviceMemory> kept_;  // by way
};

}  // namespace bridge
