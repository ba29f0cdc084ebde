#include "hosts/tensorrt/plugin/runtime_half.h"

#include <algorithm>

namespace bridge {
namespace {

void set_tensor(Tensor& tensor, void* data) {
  require(data || tensor.numel() == 0, "a tensor of ", tensor.numel(), " elements is null");
  tensor.data = data;
}

bool all_known(Shape const& shape) {
  return std::all_of(shape.dims.begin(), shape.dims.end(), [](Dim extent) { return extent.known(); });
}

// That TensorRT has room for output `i` as the op makes it.
void take_output(PluginOp const& plugin, int i, Tensor& output, trt::TensorDesc const& desc,
                 trt::TensorDesc const& first) {
  DType const dtype = from_trt(desc.dtype);
  require(dtype == output.dtype, "output ", i, " is ", dtype_name(dtype), ", expected ", dtype_name(output.dtype));
  if (!plugin.is_count(i)) require_format(plugin.type.outputs[i], desc, first);
  output.layout = layout_of(desc);
}

}  // namespace

bool RuntimeHalf::Current::is_of(trt::TensorDesc const* inputs, trt::TensorDesc const* outputs) const {
  return std::equal(in.begin(), in.end(), inputs, same_desc) && std::equal(out.begin(), out.end(), outputs, same_desc);
}

bool RuntimeHalf::Current::set_data(PluginOp const& plugin, void const* const* in_data, void* const* out_data) {
  for (size_t i = 0; i < in.size(); ++i) set_tensor(inputs[slots[i]], const_cast<void*>(in_data[i]));
  bool empty = true;
  for (size_t i = 0; i < outputs.size(); ++i) {
    set_tensor(outputs[i], out_data[i]);
    empty = empty && (plugin.is_count(static_cast<int32_t>(i)) || outputs[i].numel() == 0);
  }
  return empty;
}

int32_t RuntimeHalf::set_tactic(int32_t tactic) noexcept {
  return plugin_.guard("setTactic", 1, [&] {
    plugin_.op->tactic = from_trt_tactic(tactic);
    if (!current_.inputs.empty()) find_derived();  // it may come after the shapes, and again
    return 0;
  });
}

int32_t RuntimeHalf::on_shape_change(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out,
                                     int32_t num_out) noexcept {
  current_ = {};
  return plugin_.guard("onShapeChange", 1, [&] {
    plugin_.require_tensors(in, num_in, out, num_out);
    take_shapes(in, num_in, out);
    find_derived();
    if (current_.known) plugin_.op->prepare(current_.inputs.data(), current_.outputs.data());
    return 0;
  });
}

int32_t RuntimeHalf::enqueue(trt::TensorDesc const* in, trt::TensorDesc const* out, void const* const* inputs,
                             void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return plugin_.guard("enqueue", 1, [&] {
    require(!current_.in.empty(), "there was no onShapeChange before it, or it was refused");
    require(in && out && inputs && outputs, "tensors are null");
    if (!current_.known || !current_.is_of(in, out)) take_shapes(in, static_cast<int32_t>(current_.in.size()), out);
    require(current_.known, "an input has an extent that is not known");
    bool const empty = current_.set_data(plugin_, inputs, outputs);
    cudaError_t const status = empty ? clear_counts(stream) : run(workspace, stream);
    require(status == cudaSuccess, cudaGetErrorName(status), ": ", cudaGetErrorString(status));
    return 0;
  });
}

trt::FieldCollection const* RuntimeHalf::fields_to_serialize() noexcept {
  return plugin_.guard<trt::FieldCollection const*>("getFieldsToSerialize", nullptr,
                                                    [&] { return storage_.values(*plugin_.op, plugin_.given); });
}

// Checks the shapes of a run, and keeps them. Those of outputs are the op's own: TensorRT does not tell all of them.
// An input's may be told by enqueue alone, where it depends on values.
void RuntimeHalf::take_shapes(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out) {
  Current next;
  next.in.assign(in, in + num_in), next.out.assign(out, out + plugin_.num_outputs());
  PluginOp::Inputs inputs = plugin_.inputs(in, num_in);
  for (int i = 0; i < num_in; ++i) require_format(plugin_.type.inputs[inputs.slots[i]], in[i], in[0]);
  next.outputs = plugin_.outputs(inputs);
  next.known = std::all_of(inputs.shapes.begin(), inputs.shapes.end(), all_known);
  next.slots = std::move(inputs.slots), next.inputs = std::move(inputs.tensors);
  for (int i = 0; i < plugin_.num_outputs(); ++i) take_output(plugin_, i, next.outputs[i], out[i], in[0]);
  current_ = std::move(next);
}

// Makes room for what the op derives, where its input is a constant.
void RuntimeHalf::find_derived() {
  char const* const input = plugin_.op->derived_from();
  if (!input || !is_constant(plugin_.given, input) || !current_.known) return;
  current_.derived = plugin_.op->derived(current_.inputs.data(), current_.outputs.data());
  derived_.make_room(current_.derived);
}

cudaError_t RuntimeHalf::run(void* workspace, cudaStream_t stream) {
  Tensor const *const ins = current_.inputs.data(), *const outs = current_.outputs.data();
  Op& op = *plugin_.op;
  op.derived_memory = derived_.of(current_.derived, op, ins, outs, stream);
  return op.run(ins, outs, workspace, stream);
}

// Of outputs without elements.
cudaError_t RuntimeHalf::clear_counts(cudaStream_t stream) const {
  cudaError_t status = cudaSuccess;
  for (size_t i = plugin_.type.outputs.size(); i < current_.outputs.size() && status == cudaSuccess; ++i)
    status = cudaMemsetAsync(current_.outputs[i].data, 0, sizeof(int64_t), stream);
  return status;
}

}  // namespace bridge
