#include "kernel.h"

#include "../core/device.h"
#include "../core/require.h"

namespace bridge::triton {
namespace {

constexpr int kMaxSharedBytes = 48 << 10;  // more has to be asked for
constexpr int64_t kMaxGridX = (int64_t(1) << 31) - 1, kMaxGridYZ = 65535;
constexpr int kWarp = 32;  // threads

// Loading is forbidden while a stream of the process is captured, unless this thread says that it means to.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(RelaxedCapture const&) = delete;
  RelaxedCapture& operator=(RelaxedCapture const&) = delete;
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// The kernel as functions of the runtime take it.
void const* handle(cudaKernel_t kernel) { return reinterpret_cast<void const*>(kernel); }

cudaError_t find_kernel(cudaKernel_t& kernel, void const* fat_binary, char const* name) {
  cudaLibrary_t library = nullptr;
  cudaError_t status = cudaLibraryLoadData(&library, fat_binary, nullptr, nullptr, 0, nullptr, nullptr, 0);
  return status == cudaSuccess ? cudaLibraryGetKernel(&kernel, library, name) : status;
}

// Readies the kernel on the current device: without it, the first launch would load the code.
cudaError_t ready(cudaKernel_t kernel, Build const& build) {
  cudaError_t status = cudaSuccess;
  if (build.shared_bytes > kMaxSharedBytes) {
    status = cudaFuncSetAttribute(handle(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, build.shared_bytes);
  }
  cudaFuncAttributes attributes;
  return status == cudaSuccess ? cudaFuncGetAttributes(&attributes, handle(kernel)) : status;
}

}  // namespace

bool Kernel::runs_here() const { return build_for(current_device().capability) != nullptr; }

// As the driver chooses: the greatest capability of the same generation that is not above the device's. Code for Jetson
// Orin's 8.7 is for that alone, and Triton's for 9.0 and later is for exactly those.
Build const* Kernel::build_for(int capability) const {
  constexpr int kOrin = 87;
  Build const* found = nullptr;
  for (Build const& build : builds_) {
    bool const exact = build.capability >= 90 || build.capability == kOrin || capability == kOrin;
    bool const runs = exact ? build.capability == capability
                            : build.capability / 10 == capability / 10 && build.capability <= capability;
    if (runs && (!found || found->capability < build.capability)) found = &build;
  }
  return found;
}

cudaError_t Kernel::load() const {
  int device = 0;
  Build const* build = nullptr;
  cudaError_t const status = cudaGetDevice(&device);
  return status == cudaSuccess ? build_on(device, build) : status;
}

cudaError_t Kernel::build_on(int device, Build const*& build) const {
  if (device >= kMaxDevices) return cudaErrorInvalidDevice;
  build = loaded_[device].load(std::memory_order_acquire);
  return build ? cudaSuccess : load_on(device, build);
}

cudaError_t Kernel::load_on(int device, Build const*& build) const {
  std::lock_guard<std::mutex> const lock(mutex_);
  RelaxedCapture const relaxed;
  build = build_for(current_device().capability);
  if (!build) return cudaErrorNoKernelImageForDevice;
  cudaError_t status = kernel_ ? cudaSuccess : find_kernel(kernel_, fat_binary_, name_);
  if (status == cudaSuccess) status = ready(kernel_, *build);
  if (status == cudaSuccess) loaded_[device].store(build, std::memory_order_release);
  return status;
}

cudaError_t Kernel::launch(Grid const& grid, void** arguments, cudaStream_t stream) const {
  if (grid.empty()) return cudaSuccess;
  require(grid.x <= kMaxGridX && grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ, "kernel ", name_, ": its grid is [",
          grid.x, ", ", grid.y, ", ", grid.z, "], of at most [", kMaxGridX, ", ", kMaxGridYZ, ", ", kMaxGridYZ, "]");
  int device = 0;
  Build const* build = nullptr;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = build_on(device, build);
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
  config.blockDim = {static_cast<unsigned>(build->warps * kWarp), 1, 1};
  config.dynamicSmemBytes = static_cast<size_t>(build->shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelExC(&config, handle(kernel_), arguments);
}

}  // namespace bridge::triton
