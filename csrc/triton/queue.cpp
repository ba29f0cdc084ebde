#include "queue.h"

#include <algorithm>

namespace bridge::triton {
namespace {

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

int default_choice(Configurations const& configurations) {
  auto const here = std::find_if(configurations.begin(), configurations.end(),
                                 [](Configuration const& each) { return each.runs_here(); });
  return here == configurations.end() ? 0 : static_cast<int>(here - configurations.begin());
}

int choice(Configurations const& configurations, int tactic, int step) {
  if (configurations.size() == 1) return 0;
  return tactic < 0 ? default_choice(configurations) : tactic / step % static_cast<int>(configurations.size());
}

std::vector<int> tactics(std::vector<Configurations const*> const& launches) {
  int64_t count = 1;
  for (Configurations const* launch : launches) count = std::min<int64_t>(count * launch->size(), kMaxTactics);
  std::vector<int> all;
  for (int tactic = 0; count > 1 && tactic < count; ++tactic) {
    int step = 1;
    bool runs = true;
    for (Configurations const* launch : launches) {
      runs = runs && (*launch)[choice(*launch, tactic, step)].runs_here();
      step = std::min(step * static_cast<int>(launch->size()), kMaxTactics);
    }
    if (runs) all.push_back(tactic);
  }
  return all;
}

void Queue::zero(uintptr_t memory, int64_t bytes) {
  if (!enqueues_ || status_ != cudaSuccess || bytes <= 0) return;
  status_ = cudaMemsetAsync(pointer(memory), 0, static_cast<size_t>(bytes), stream_);
}

void Queue::copy(uintptr_t target, uintptr_t source, int64_t bytes) {
  if (!enqueues_ || status_ != cudaSuccess || bytes <= 0) return;
  status_ =
      cudaMemcpyAsync(pointer(target), pointer(source), static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_);
}

void Queue::launch(Configuration const& kernels, Divisible are, Grid const& grid, void** arguments) {
  if (status_ != cudaSuccess) return;
  if (enqueues_) {
    Kernel const& kernel = kernels.of(are);
    status_ = kernel.launch(grid, arguments, stream_);
    require(status_ == cudaSuccess, "kernel ", kernel.name(), ": ", cudaGetErrorName(status_), ": ",
            cudaGetErrorString(status_));
    return;
  }
  for (Kernel const* kernel : {&kernels.divisible, &kernels.aligned, &kernels.general}) {
    if (status_ == cudaSuccess) status_ = kernel->load();
  }
}

}  // namespace bridge::triton
