// PyTorch as a host: every op of the table as the CUDA implementation of torch.ops.bridge.<name>, over the stable ABI.
// The schemas are defined in Python (bridge/op.py), where the reference is.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "core/op.h"

namespace bridge {
namespace {

using TorchTensor = torch::stable::Tensor;
using torch::headeronly::ScalarType;

constexpr size_t kMaxOps = 64;

DType from_torch(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Int:
      return DType::kInt32;
    case ScalarType::Long:
      return DType::kInt64;
    default:
      return DType::kUnsupported;
  }
}

ScalarType to_torch(DType type) {
  switch (type) {
    case DType::kFloat32:
      return ScalarType::Float;
    case DType::kFloat16:
      return ScalarType::Half;
    case DType::kBFloat16:
      return ScalarType::BFloat16;
    case DType::kInt32:
      return ScalarType::Int;
    case DType::kInt64:
      return ScalarType::Long;
    default:
      throw std::runtime_error("an output would have an unsupported dtype");
  }
}

// Takes one attribute off the stack.
struct AttributeReader {
  StableIValue value;

  template <class T>
  T take() const {
    return torch::stable::detail::to<T>(value);
  }
  void operator()(int64_t* out) const { *out = take<int64_t>(); }
  void operator()(bool* out) const { *out = take<bool>(); }
  void operator()(std::string* out) const { *out = take<std::string>(); }
  void operator()(std::vector<int64_t>* out) const { *out = take<std::vector<int64_t>>(); }
  void operator()(std::vector<double>* out) const { *out = take<std::vector<double>>(); }
  void operator()(double* out) const {
    // A default of infinity is spelt None in the schema (op.cpp, attribute_schema).
    *out = std::isinf(*out) ? take<std::optional<double>>().value_or(*out) : take<double>();
  }
  void operator()(Pair* out) const {
    auto const values = take<std::vector<int64_t>>();
    require(values.size() == 2, "got a list of ", values.size(), " numbers, expected 2");
    *out = {values[0], values[1]};
  }
};

struct Call {
  OpType const& type;
  std::unique_ptr<Op> op = type.create();
  std::vector<std::optional<TorchTensor>> held{};  // keeps inputs alive until the work is enqueued
  std::vector<Tensor> inputs{};

  void read(StableIValue* stack) {
    size_t next = 0;
    for (Param const& param : type.inputs) {
      StableIValue const value = stack[next++];
      held.push_back(param.optional ? torch::stable::detail::to<std::optional<TorchTensor>>(value)
                                    : torch::stable::detail::to<TorchTensor>(value));
    }
    for (Attribute const& attribute : op->attributes()) std::visit(AttributeReader{stack[next++]}, attribute.value);
  }

  int32_t device() const {
    for (size_t i = 0; i < held.size(); ++i) {
      if (!held[i]) continue;
      require(held[i]->is_cuda(), type.name, ": ", type.inputs[i].name, " is not on a CUDA device, other inputs are");
      require(held[i]->get_device_index() == held[0]->get_device_index(), type.name, ": ", type.inputs[i].name,
              " is on cuda:", held[i]->get_device_index(), ", ", type.inputs[0].name,
              " on cuda:", held[0]->get_device_index());
    }
    return held[0]->get_device_index();
  }

  void view_inputs() {
    for (size_t i = 0; i < held.size(); ++i) {
      auto& tensor = held[i];
      Layout const layout = tensor ? layout_of(*tensor, type.inputs[i]) : Layout::kLinear;
      if (tensor && layout == Layout::kLinear && !tensor->is_contiguous()) tensor = torch::stable::contiguous(*tensor);
      inputs.push_back(tensor ? view(*tensor) : Tensor{});
      inputs.back().layout = layout;
      for (int d = 0; layout == Layout::kStrided && d < inputs.back().rank; ++d)
        inputs.back().strides[d] = tensor->stride(d);
    }
  }

  // The layout in which the op gets it: linear where it is dense, or must be made so.
  static Layout layout_of(TorchTensor const& tensor, Param const& param) {
    if (tensor.is_contiguous()) return Layout::kLinear;
    bool const strided = tensor.dim() > 0 && tensor.dim() <= kMaxRank && tensor.stride(tensor.dim() - 1) == 1;
    if (param.also == Layout::kStrided && strided) return Layout::kStrided;
    if (param.also == Layout::kChannelsLast && is_channels_last(tensor)) return Layout::kChannelsLast;
    return Layout::kLinear;
  }

  // Dense in that layout and in no other.
  static bool is_channels_last(TorchTensor const& tensor) {
    if (tensor.dim() != 4 || tensor.numel() == 0) return false;
    int64_t step = 1;
    for (int axis : {1, 3, 2, 0}) {
      if (tensor.size(axis) != 1 && tensor.stride(axis) != step) return false;
      step *= tensor.size(axis);
    }
    return true;
  }

  std::vector<Shape> output_shapes() const {
    check_dtypes(type, inputs.data());
    std::vector<Shape> shapes(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].present()) continue;
      shapes[i].rank = 0;
      for (int d = 0; d < inputs[i].rank; ++d) shapes[i].append(inputs[i][d]);
    }
    return infer_shapes(type, *op, shapes);
  }

  static Tensor view(TorchTensor const& tensor) {
    require(tensor.dim() <= kMaxRank, "a tensor has ", tensor.dim(), " dimensions, at most ", kMaxRank,
            " are supported");
    Tensor result{tensor.data_ptr(), from_torch(tensor.scalar_type()), static_cast<int>(tensor.dim())};
    for (int d = 0; d < result.rank; ++d) result.sizes[d] = tensor.size(d);
    return result;
  }
};

struct Results {
  std::vector<TorchTensor> tensors{}, counts{};
  std::vector<Tensor> outputs{};  // of both
  bool empty = true;

  Results(Call const& call) {
    std::vector<Shape> const shapes = call.output_shapes();
    for (size_t i = 0; i < shapes.size(); ++i) {
      std::vector<int64_t> sizes;
      for (int d = 0; d < shapes[i].rank; ++d) sizes.push_back(shapes[i][d].value());
      ScalarType const dtype = to_torch(output_dtype(call.type.outputs[i], call.inputs[0].dtype));
      tensors.push_back(torch::stable::new_empty(*call.held[0], sizes, dtype));
      outputs.push_back(Call::view(tensors.back()));
      empty = empty && outputs.back().numel() == 0;
    }
    for (size_t i = 0; i < call.type.counts().size(); ++i) {
      counts.push_back(torch::stable::new_empty(*call.held[0], {}, ScalarType::Long));
      outputs.push_back(Call::view(counts.back()));
    }
  }

  // Cuts what is counted to what the work says, which is waited for.
  cudaError_t cut(OpType const& type, cudaStream_t stream) {
    std::vector<int64_t> found(counts.size());
    cudaError_t status = cudaSuccess;
    for (size_t i = 0; i < counts.size() && status == cudaSuccess; ++i)
      status = cudaMemcpyAsync(&found[i], counts[i].data_ptr(), sizeof(int64_t), cudaMemcpyDeviceToHost, stream);
    if (!counts.empty() && status == cudaSuccess) status = cudaStreamSynchronize(stream);
    for (size_t i = 0; i < counts.size() && status == cudaSuccess; ++i) {
      TorchTensor& tensor = tensors[type.counts()[i]];
      tensor = torch::stable::narrow(tensor, 0, 0, found[i]);
    }
    return status;
  }
};

void run(OpType const& type, StableIValue* stack) {
  Call call{type};
  call.read(stack);
  int32_t const device = call.device();
  torch::stable::accelerator::DeviceGuard const guard(device);
  call.view_inputs();
  call.op->tactic = type.forced_tactic;

  Results results(call);
  if (!results.empty) {
    size_t const bytes = call.op->workspace(call.inputs.data(), results.outputs.data());
    std::optional<TorchTensor> workspace;
    if (bytes) workspace = torch::stable::new_empty(*call.held[0], {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    auto const stream = static_cast<cudaStream_t>(current);
    cudaError_t status =
        call.op->run(call.inputs.data(), results.outputs.data(), workspace ? workspace->data_ptr() : nullptr, stream);
    if (status == cudaSuccess) status = results.cut(type, stream);
    require(status == cudaSuccess, type.name, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
  }
  for (size_t i = 0; i < results.tensors.size(); ++i) stack[i] = torch::stable::detail::from(results.tensors[i]);
}

// A boxed kernel of the stable ABI carries no data of its own: one function an op, by its index in the table.
template <size_t kIndex>
void trampoline(StableIValue* stack, uint64_t, uint64_t) {
  run(*op_table()[kIndex], stack);
}

template <size_t... kIndex>
constexpr auto trampolines(std::index_sequence<kIndex...>) {
  return std::array<void (*)(StableIValue*, uint64_t, uint64_t), sizeof...(kIndex)>{trampoline<kIndex>...};
}

void implement(OpType const& type, size_t index) {
  static constexpr auto kTrampolines = trampolines(std::make_index_sequence<kMaxOps>());
  static auto* library = new torch::stable::detail::StableLibrary(torch::stable::detail::StableLibrary::Kind::IMPL,
                                                                  "bridge", "CUDA", "csrc/hosts/torch/library.cpp", __LINE__);
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
  bridge::OpType const* const type = name ? bridge::find_op(name) : nullptr;
  if (!type) return 1;
  int32_t const replaced = type->forced_tactic.exchange(tactic);
  if (before) *before = replaced;
  return 0;
}
