#include "hosts/torch/call.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <string>

#include "core/infer.h"

namespace bridge {
namespace {

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
    // A default of infinity is spelt None in the schema (core/op.h).
    *out = std::isinf(*out) ? take<std::optional<double>>().value_or(*out) : take<double>();
  }
  void operator()(Pair* out) const {
    auto const values = take<std::vector<int64_t>>();
    require(values.size() == 2, "got a list of ", values.size(), " numbers, expected 2");
    *out = {values[0], values[1]};
  }
};

}  // namespace

Call::Call(OpType const& type, StableIValue const* stack) : type(type), op(type.create()) {
  size_t next = 0;
  for (Param const& param : type.inputs) {
    StableIValue const value = stack[next++];
    held.push_back(param.optional ? torch::stable::detail::to<std::optional<TorchTensor>>(value)
                                  : torch::stable::detail::to<TorchTensor>(value));
  }
  for (Attribute const& attribute : op->attributes()) std::visit(AttributeReader{stack[next++]}, attribute.value);
}

int32_t Call::device() const {
  for (size_t i = 0; i < held.size(); ++i) {
    if (!held[i]) continue;
    require(held[i]->is_cuda(), type.name, ": ", type.inputs[i].name, " is not on a CUDA device, other inputs are");
    require(held[i]->get_device_index() == held[0]->get_device_index(), type.name, ": ", type.inputs[i].name,
            " is on cuda:", held[i]->get_device_index(), ", ", type.inputs[0].name,
            " on cuda:", held[0]->get_device_index());
  }
  return held[0]->get_device_index();
}

void Call::view_inputs() {
  for (size_t i = 0; i < held.size(); ++i) {
    auto& tensor = held[i];
    Layout const layout = tensor ? layout_of(*tensor, type.inputs[i]) : Layout::kLinear;
    if (tensor && layout == Layout::kLinear && !tensor->is_contiguous()) tensor = torch::stable::contiguous(*tensor);
    inputs.push_back(tensor ? view(*tensor, layout) : Tensor{});
  }
}

Results::Results(Call const& call) {
  std::vector<Shape> shapes;
  for (Tensor const& input : call.inputs) shapes.push_back(shape_of(input));
  outputs = infer_outputs(call.type, *call.op, call.inputs, shapes);
  for (Tensor& output : outputs) {
    std::vector<int64_t> const sizes(output.sizes.begin(), output.sizes.begin() + output.rank);
    TorchTensor const tensor = torch::stable::new_empty(*call.held[0], sizes, to_torch(output.dtype));
    output.data = tensor.data_ptr();
    bool const counts_another = tensors.size() == call.type.outputs.size();
    (counts_another ? counts : tensors).push_back(tensor);
    empty = empty && (counts_another || output.numel() == 0);
  }
}

cudaError_t Results::cut(OpType const& type, cudaStream_t stream) {
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

}  // namespace bridge
