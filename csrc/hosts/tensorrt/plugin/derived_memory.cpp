#include "hosts/tensorrt/plugin/derived_memory.h"

namespace bridge {

DeviceMemory::DeviceMemory(size_t bytes) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (cudaMalloc(&data_, bytes) != cudaSuccess) {
    data_ = nullptr;
    cudaGetLastError();  // clears it: whoever asked does without
  }
  cudaThreadExchangeStreamCaptureMode(&mode);
}

void DerivedMemory::make_room(Op::Derived const& derived) {
  if (derived.bytes && !kept_.count(derived.way)) kept_.try_emplace(derived.way, derived.bytes);
}

void const* DerivedMemory::of(Op::Derived const& derived, Op const& op, Tensor const* inputs, Tensor const* outputs,
                              cudaStream_t stream) {
  auto const found = derived.bytes ? kept_.find(derived.way) : kept_.end();
  if (found == kept_.end() || !found->second.data()) return nullptr;
  DeviceMemory& memory = found->second;
  // A stream that is captured would write it in every replay, and not before.
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
  if (!memory.filled && cudaStreamIsCapturing(stream, &capture) == cudaSuccess &&
      capture == cudaStreamCaptureStatusNone) {
    memory.filled = op.derive(inputs, outputs, memory.data(), stream) == cudaSuccess;
  }
  return memory.filled ? memory.data() : nullptr;
}

}  // namespace bridge
