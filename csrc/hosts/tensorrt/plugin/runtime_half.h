// The half of a plugin that an engine runs, in one execution context.
#pragma once

#include <vector>

#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/plugin/derived_memory.h"
#include "hosts/tensorrt/plugin/plugin_op.h"

namespace bridge {

class RuntimeHalf final : public trt::PluginRuntime {
 public:
  // whole: the plugin that this is a half of.
  RuntimeHalf(PluginOp const& plugin, trt::PluginV3& whole) : plugin_(plugin), whole_(whole) {}
  // Takes the shapes of the next run over. Derived memory is a context's own.
  void copy_state(RuntimeHalf const& other) { current_ = other.current_; }

  int32_t set_tactic(int32_t tactic) noexcept override;
  int32_t on_shape_change(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out,
                          int32_t num_out) noexcept override;
  int32_t enqueue(trt::TensorDesc const* in, trt::TensorDesc const* out, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  trt::PluginV3* attach_to_context(void*) noexcept override { return whole_.clone(); }
  trt::FieldCollection const* fields_to_serialize() noexcept override;

 private:
  // What on_shape_change was told, and how the op sees it.
  struct Current {
    std::vector<trt::TensorDesc> in, out;
    std::vector<int> slots;  // where each tensor given stands in the signature
    std::vector<Tensor> inputs, outputs;
    Op::Derived derived;
    bool known = true;  // every extent of the inputs is a number

    bool is_of(trt::TensorDesc const* inputs, trt::TensorDesc const* outputs) const;
    // Sets the data of all tensors; returns whether no output has an element to compute.
    bool set_data(PluginOp const& plugin, void const* const* inputs, void* const* outputs);
  };

  void take_shapes(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out);
  void find_derived();
  cudaError_t run(void* workspace, cudaStream_t stream);
  cudaError_t clear_counts(cudaStream_t stream) const;

  PluginOp const& plugin_;
  trt::PluginV3& whole_;
  Current current_;  // set by on_shape_change; without tensors where it was refused
  DerivedMemory derived_;
  FieldStorage storage_;
};

}  // namespace bridge
