// PyTorch as a host: every op of the table as the CUDA implementation of torch.ops.<namespace>.<name>, over the stable
// ABI. The schemas are defined in Python (bridge/core/op.py), where the reference is.
#include "core/library.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <atomic>
#include <utility>

#include "hosts/torch/call.h"

namespace bridge {
namespace {

constexpr size_t kMaxOps = 64;

// By the op's index in the table: the tactic that calls are made to use, or -1.
struct {
  std::atomic<int> number{-1};
} forced_tactics[kMaxOps];

cudaError_t enqueue(Call const& call, Results& results, int32_t device) {
  size_t const bytes = call.op->workspace(call.inputs.data(), results.outputs.data());
  std::optional<TorchTensor> workspace;
  if (bytes) workspace = torch::stable::new_empty(*call.held[0], {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  void* current = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
  auto const stream = static_cast<cudaStream_t>(current);
  void* const memory = workspace ? workspace->data_ptr() : nullptr;
  cudaError_t const status = call.op->run(call.inputs.data(), results.outputs.data(), memory, stream);
  return status == cudaSuccess ? results.cut(call.type, stream) : status;
}

void run(OpType const& type, int tactic, StableIValue* stack) {
  Call call(type, stack);
  int32_t const device = call.device();
  torch::stable::accelerator::DeviceGuard const guard(device);
  call.view_inputs();
  call.op->tactic = tactic;

  Results results(call);
  cudaError_t const status = results.empty ? cudaSuccess : enqueue(call, results, device);
  require(status == cudaSuccess, type.name, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
  for (size_t i = 0; i < results.tensors.size(); ++i) stack[i] = torch::stable::detail::from(results.tensors[i]);
}

// A boxed kernel of the stable ABI carries no data of its own: one function an op, by its index in the table.
template <size_t kIndex>
void trampoline(StableIValue* stack, uint64_t, uint64_t) {
  run(*op_table()[kIndex], forced_tactics[kIndex].number, stack);
}

template <size_t... kIndex>
constexpr auto trampolines(std::index_sequence<kIndex...>) {
  return std::array<void (*)(StableIValue*, uint64_t, uint64_t), sizeof...(kIndex)>{trampoline<kIndex>...};
}

void implement(OpType const& type, size_t index) {
  static constexpr auto kTrampolines = trampolines(std::make_index_sequence<kMaxOps>());
  static auto* library = new torch::stable::detail::StableLibrary(
      torch::stable::detail::StableLibrary::Kind::IMPL, kNamespace, "CUDA", "csrc/hosts/torch/library.cpp", __LINE__);
  require(index < kMaxOps, "more than ", kMaxOps, " ops: raise kMaxOps in csrc/hosts/torch/library.cpp");
  library->impl(type.name.c_str(), kTrampolines[index]);
}

bool const listening = (listen(implement), true);

}  // namespace
}  // namespace bridge

// Makes calls of an op through PyTorch use a tactic wherever it can compute them; -1: the op chooses again. before:
// takes the one that was in force, unless it is null. Returns 1 when there is no such op.
extern "C" __attribute__((visibility("default"))) int32_t bridge_force_tactic(char const* name, int32_t tactic,
                                                                              int32_t* before) {
  auto const& ops = bridge::op_table();
  for (size_t i = 0; name && i < ops.size(); ++i) {
    if (ops[i]->name != name) continue;
    int32_t const replaced = bridge::forced_tactics[i].number.exchange(tactic);
    if (before) *before = replaced;
    return 0;
  }
  return 1;
}
