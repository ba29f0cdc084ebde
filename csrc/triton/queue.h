// What a generated op enqueues in one run, and which of a kernel's configurations it takes.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "../core/require.h"
#include "../core/tensor.h"
#include "kernel.h"

namespace bridge::triton {

constexpr int64_t kAlignment = 256;  // of a buffer, in bytes
constexpr int64_t kDivisor = 16;     // by which pointers and numbers are divisible where code is compiled for that

constexpr int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Where a tensor's data start, or memory.
inline uintptr_t address(void const* memory) { return reinterpret_cast<uintptr_t>(memory); }
inline uintptr_t address(Tensor const& tensor) { return address(tensor.data); }

// The number as the kernel takes it; throws where it does not fit.
template <class T>
T narrow(char const* kernel, char const* argument, int64_t value) {
  bool const fits = std::is_unsigned_v<T> ? value >= 0 && static_cast<uint64_t>(value) <= std::numeric_limits<T>::max()
                                          : value >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
                                                value <= static_cast<int64_t>(std::numeric_limits<T>::max());
  require(fits, "kernel ", kernel, ": ", argument, " is ", value, ", which its ", 8 * sizeof(T), " bits do not hold");
  return static_cast<T>(value);
}

template <class... Values>
bool divisible(Values... values) {
  return ((values % static_cast<Values>(kDivisor) == 0) && ...);
}

// Whether all arguments that may be divisible are.
struct Divisible {
  bool pointers = true, numbers = true;
};

// A kernel compiled with one set of constants and options: assuming that pointers and numbers are divisible, that
// pointers are, and neither.
struct Configuration {
  Kernel const& divisible;
  Kernel const& aligned;
  Kernel const& general;

  Kernel const& of(Divisible are) const { return !are.pointers ? general : are.numbers ? divisible : aligned; }
  bool runs_here() const { return divisible.runs_here() && aligned.runs_here() && general.runs_here(); }
};
using Configurations = std::vector<Configuration>;

// The first configuration that the current device has code for; the first of all where none is.
int default_choice(Configurations const& configurations);
// The one that a tactic stands for. Launches that are tuned are the digits of a tactic, the first being the least:
// step is the product of the numbers of configurations before this one.
int choice(Configurations const& configurations, int tactic, int step);
// The tactics of these launches that the current device has code for, of the first kMaxTactics.
std::vector<int> tactics(std::vector<Configurations const*> const& launches);
constexpr int kMaxTactics = 64;

// Enqueues one step after another; after a failure, nothing more. A kernel that fails throws, with its name.
class Queue {
 public:
  explicit Queue(cudaStream_t stream) : stream_(stream) {}
  // One that loads the kernels, and enqueues nothing.
  static Queue loading() {
    Queue queue(nullptr);
    queue.enqueues_ = false;
    return queue;
  }

  cudaError_t status() const { return status_; }

  void zero(uintptr_t memory, int64_t bytes);
  void copy(uintptr_t target, uintptr_t source, int64_t bytes);
  // scratch: memory of Build::scratch_bytes for every program, or null.
  template <class... Arguments>
  void launch(Configuration const& kernels, Divisible are, Grid const& grid, uintptr_t scratch,
              Arguments... arguments) {
    uintptr_t profile = 0;  // Triton's convention: two addresses come after the kernel's own arguments
    void* addresses[] = {&arguments..., &scratch, &profile};
    launch(kernels, are, grid, addresses);
  }

 private:
  void launch(Configuration const& kernels, Divisible are, Grid const& grid, void** arguments);

  cudaStream_t stream_;
  bool enqueues_ = true;
  cudaError_t status_ = cudaSuccess;
};

}  // namespace bridge::triton
