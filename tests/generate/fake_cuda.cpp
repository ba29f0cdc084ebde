// A CUDA runtime without a GPU, to be linked in place of NVIDIA's: memory is the host's, and what is loaded or enqueued
// is a line on stdout. FAKE_CAPABILITY: the device's, such as 86; 0: there is none. FAKE_DEVICE: its number.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace {

int setting(char const* name, int otherwise) {
  char const* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

int capability() { return setting("FAKE_CAPABILITY", 86); }

thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

// What handles of libraries and kernels point to. bytes: of the fat binary, which tell it from others.
struct Code {
  char const* name;
  unsigned long long bytes;
};

Code const& code_of(void const* handle) { return *static_cast<Code const*>(handle); }

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = setting("FAKE_DEVICE", 0);
  return capability() ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? capability() / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? capability() % 10
                                                            : 1;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  std::swap(mode, *other);
  return cudaSuccess;
}

cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, void const* fat_binary, cudaJitOption*, void**, unsigned,
                                cudaLibraryOption*, void**, unsigned) {
  uint32_t magic;
  auto* code = new Code{nullptr, 0};
  std::memcpy(&magic, fat_binary, sizeof magic);
  std::memcpy(&code->bytes, static_cast<char const*>(fat_binary) + 8, sizeof code->bytes);
  std::printf("load%s%s\n", magic == 0xBA55ED50 ? "" : " of no fat binary",
              mode == cudaStreamCaptureModeRelaxed ? "" : " in a mode that is not relaxed");
  *library = reinterpret_cast<cudaLibrary_t>(code);
  return setting("FAKE_FAILS", 0) ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, char const* name) {
  *kernel = reinterpret_cast<cudaKernel_t>(new Code{name, code_of(library).bytes});
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(void const* kernel, cudaFuncAttribute attribute, int value) {
  bool const shared = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
  std::printf("set %s %s %d\n", code_of(kernel).name, shared ? "shared" : "?", value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void const* kernel) {
  std::printf("ready %s\n", code_of(kernel).name);
  return cudaSuccess;
}

// Arguments are not shown, for neither their number nor their types are known here.
cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* config, void const* kernel, void**) {
  std::printf("launch %s grid %u,%u,%u block %u shared %zu, code of %llu bytes\n", code_of(kernel).name,
              config->gridDim.x, config->gridDim.y, config->gridDim.z, config->blockDim.x, config->dynamicSmemBytes,
              code_of(kernel).bytes);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, void const* source, size_t bytes, cudaMemcpyKind) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::printf("zero %zu\n", bytes);
  return cudaMemset(memory, value, bytes);
}
cudaError_t cudaMemcpyAsync(void* target, void const* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  std::printf("copy %zu\n", bytes);
  return cudaMemcpy(target, source, bytes, kind);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus*) { return cudaSuccess; }
char const* cudaGetErrorName(cudaError_t status) {
  return status == cudaErrorNoDevice ? "cudaErrorNoDevice" : "cudaErrorNoKernelImageForDevice";
}
char const* cudaGetErrorString(cudaError_t) { return "of the fake runtime"; }

}  // extern "C"
