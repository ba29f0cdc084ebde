// Kernels that Triton compiled ahead of time, as generated ops launch them. Names no host.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

// The content of a file as device code of this library: unsigned char const symbol[]. The assembler looks for the file
// in the folder that the compiler runs in, and in those of -Wa,-I.
#define BRIDGE_FAT_BINARY(symbol, file)                                                                         \
  asm(".pushsection .nv_fatbin, \"a\"\n.balign 8\n" #symbol ":\n.incbin \"" file "\"\n.balign 8\n.popsection"); \
  extern "C" __attribute__((visibility("hidden"))) unsigned char const symbol[]

namespace bridge::triton {

// Programs along each axis.
struct Grid {
  int64_t x, y, z;

  bool empty() const { return x <= 0 || y <= 0 || z <= 0; }
  int64_t programs() const { return empty() ? 0 : x * y * z; }
};

// What the code for one compute capability, such as 86, is launched with.
struct Build {
  int capability;
  int warps;              // of a program
  int shared_bytes;       // of a program
  int64_t scratch_bytes;  // of a program, in global memory
};

class Kernel {
 public:
  // fat_binary: code for all of the builds; name: the kernel's in it.
  Kernel(void const* fat_binary, char const* name, std::vector<Build> builds)
      : fat_binary_(fat_binary), name_(name), builds_(std::move(builds)) {}
  Kernel(Kernel const&) = delete;
  Kernel& operator=(Kernel const&) = delete;

  char const* name() const { return name_; }
  // Whether there is code for the current device.
  bool runs_here() const;
  // Loads the code for the current device, once; a stream may be captured meanwhile. It stays as long as the process:
  // engines come and go, and the code is theirs in common.
  cudaError_t load() const;
  // arguments: addresses of what the kernel takes, Triton's own two at the end among them. Throws where the grid is too
  // large.
  cudaError_t launch(Grid const& grid, void** arguments, cudaStream_t stream) const;

 private:
  static constexpr int kMaxDevices = 64;

  Build const* build_for(int capability) const;
  cudaError_t build_on(int device, Build const*& build) const;
  cudaError_t load_on(int device, Build const*& build) const;

  void const* fat_binary_;
  char const* name_;
  std::vector<Build> builds_;
  mutable std::mutex mutex_;  // of loading
  mutable cudaKernel_t kernel_ = nullptr;
  mutable std::array<std::atomic<Build const*>, kMaxDevices> loaded_{};  // by device
};

}  // namespace bridge::triton
