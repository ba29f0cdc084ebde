// TensorRT as a host: every op of the table as an IPluginV3, in the namespace "bridge".
#include <cstdio>
#include <exception>
#include <map>

#include "device_memory.h"
#include "plugin_fields.h"
#include "tensorrt_types.h"

#define BRIDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace bridge {
namespace {

constexpr char const* kNamespace = "bridge";
constexpr char const* kVersion = "1";

// Runs `body`; nothing may be thrown into TensorRT, and its logger is not ours to call.
template <class Result, class Body>
Result guarded(char const* op, char const* where, Result failure, Body&& body) noexcept {
  try {
    return body();
  } catch (std::exception const& error) {
    std::fprintf(stderr, "[bridge] plugin %s, %s: %s\n", op, where, error.what());
  } catch (...) {
    std::fprintf(stderr, "[bridge] plugin %s, %s: unknown error\n", op, where);
  }
  return failure;
}

class Plugin final : public trt::PluginV3, public trt::PluginCore, public trt::PluginBuild, public trt::PluginRuntime {
 public:
  Plugin(OpType const& type, std::unique_ptr<Op> op, std::string inputs)
      : type_(type), op_(std::move(op)), inputs_(std::move(inputs)) {}

  // PluginV3
  void* capability_interface(int32_t type) noexcept override {
    switch (type) {
      case trt::kCore:
        return static_cast<trt::PluginCore*>(this);
      case trt::kBuild:
        return static_cast<trt::PluginBuild*>(this);
      case trt::kRuntime:
        return static_cast<trt::PluginRuntime*>(this);
      default:
        return nullptr;
    }
  }
  trt::PluginV3* clone() noexcept override {
    return guard<trt::PluginV3*>("clone", nullptr, [&] {
      auto* copy = new Plugin(type_, type_.clone(*op_), inputs_);
      copy->slots_ = slots_;
      copy->tactics_ = tactics_;
      copy->timing_id_ = timing_id_;
      return copy;
    });
  }

  // PluginCore
  char const* plugin_name() const noexcept override { return type_.name.c_str(); }
  char const* plugin_version() const noexcept override { return kVersion; }
  char const* plugin_namespace() const noexcept override { return kNamespace; }

  // PluginBuild
  int32_t num_outputs() const noexcept override {
    return static_cast<int32_t>(type_.outputs.size() + type_.counts().size());
  }

  int32_t configure(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                    int32_t num_out) noexcept override {
    return guard("configurePlugin", 1, [&] {
      check(num_in, [&](int i) { return in[i].desc; });
      Tensors const largest = largest_tensors(in, num_in, out, num_out);
      tactics_ = op_->tactics(largest.inputs.data(), largest.outputs.data());
      timing_id_ = timing_id();
      return 0;
    });
  }

  // TensorRT's tactics are positive. The first leaves the choice to the op, for a TensorRT that takes it unmeasured, as
  // TensorRT-RTX does; 0 does too.
  static constexpr int32_t kOwnChoice = 1;
  int32_t num_tactics() noexcept override {
    return tactics_.empty() ? 0 : static_cast<int32_t>(tactics_.size()) + kOwnChoice;
  }
  int32_t valid_tactics(int32_t* tactics, int32_t count) noexcept override {
    if (count != num_tactics()) return 1;
    for (int i = 0; i < count; ++i) tactics[i] = i == 0 ? kOwnChoice : tactics_[i - 1] + kOwnChoice + 1;
    return 0;
  }
  int32_t set_tactic(int32_t tactic) noexcept override {
    op_->tactic = tactic <= kOwnChoice ? -1 : tactic - kOwnChoice - 1;
    return 0;
  }
  char const* timing_cache_id() noexcept override { return timing_id_.empty() ? nullptr : timing_id_.c_str(); }

  int32_t output_dtypes(int32_t* out, int32_t num_out, int32_t const* in, int32_t num_in) const noexcept override {
    return guard("getOutputDataTypes", 1, [&] {
      require(num_in >= 1 && num_out == num_outputs(), "got ", num_in, " inputs and ", num_out, " outputs");
      for (int i = 0; i < num_out; ++i)
        out[i] = is_count(i) ? trt::kInt64 : to_trt(output_dtype(type_.outputs[i], from_trt(in[0])));
      return 0;
    });
  }

  int32_t output_shapes(trt::DimsExprs const* in, int32_t num_in, trt::DimsExprs const*, int32_t, trt::DimsExprs* out,
                        int32_t num_out, trt::ExprBuilder& builder) noexcept override {
    return guard("getOutputShapes", 1, [&] {
      require(num_out == num_outputs(), "got ", num_out, " outputs, expected ", num_outputs());
      BuilderExpressions expressions(builder);
      std::vector<Shape> inputs(type_.inputs.size()), outputs(type_.outputs.size());
      std::vector<int> const slots = input_slots(type_, inputs_, num_in);
      for (int i = 0; i < num_in; ++i) {
        inputs[slots[i]].rank = 0;
        for (int d = 0; d < in[i].rank; ++d) inputs[slots[i]].append(Dim::expression(&expressions, in[i].extent[d]));
      }
      op_->shapes(inputs.data(), outputs.data());
      for (size_t i = 0; i < outputs.size(); ++i) {
        out[i].rank = outputs[i].rank;
        for (int d = 0; d < out[i].rank; ++d) {
          out[i].extent[d] = static_cast<trt::DimensionExpr const*>(outputs[i][d].handle(expressions));
        }
      }
      std::vector<size_t> const counts = type_.counts();
      for (size_t i = 0; i < counts.size(); ++i) {
        trt::DimensionExpr const*& extent = out[counts[i]].extent[0];
        auto const place = static_cast<int32_t>(outputs.size() + i);
        out[place].rank = 0;
        extent = builder.impl->declare_size_tensor(place, *extent, *extent);  // taken for the most where it is tuned
        require(extent != nullptr, "TensorRT refused a size tensor");
      }
      return 0;
    });
  }

  bool supports_format(int32_t position, trt::DynamicTensorDesc const* in_out, int32_t num_in,
                       int32_t) noexcept override {
    return guard("supportsFormatCombination", false, [&] {
      trt::TensorDesc const& desc = in_out[position].desc;
      if (is_count(position - num_in)) return desc.format == trt::kLinear && desc.dtype == trt::kInt64;
      Param const& param = position < num_in ? type_.inputs[input_slots(type_, inputs_, num_in)[position]]
                                             : type_.outputs.at(position - num_in);
      bool const fits = desc.format == trt::kLinear || (param.also == Layout::kChannelsLast && is_channels_last(desc));
      return fits && accepts(param.types, from_trt(desc.dtype), from_trt(in_out[0].desc.dtype));
    });
  }

  size_t workspace_size(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                        int32_t num_out) const noexcept override {
    return guard("getWorkspaceSize", size_t(0), [&] {
      Tensors const largest = largest_tensors(in, num_in, out, num_out);
      return op_->workspace(largest.inputs.data(), largest.outputs.data());
    });
  }

  // PluginRuntime
  int32_t on_shape_change(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out,
                          int32_t num_out) noexcept override {
    return guard("onShapeChange", 1, [&] {
      slots_ = input_slots(type_, inputs_, num_in);
      check(num_in, [&](int i) { return in[i]; });
      make_room(in, out, num_out);
      return 0;
    });
  }

  int32_t enqueue(trt::TensorDesc const* in, trt::TensorDesc const* out, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guard("enqueue", 1, [&] {
      std::vector<Tensor> ins = inputs_of(in, inputs), outs;
      bool empty = true;
      std::vector<Shape> const shapes = type_.counts().empty() ? std::vector<Shape>() : infer_shapes(ins);
      for (int i = 0; i < num_outputs(); ++i) {
        outs.push_back(to_tensor(out[i].dims, out[i], outputs[i]));
        if (is_count(i)) continue;
        if (type_.outputs[i].counted) outs.back().sizes[0] = shapes[i][0].value();  // TensorRT does not say
        empty = empty && outs.back().numel() == 0;
      }
      cudaError_t status = cudaSuccess;
      if (!empty) {
        op_->derived_memory = derived_memory(ins, outs, stream);
        status = op_->run(ins.data(), outs.data(), workspace, stream);
      } else {
        for (size_t i = type_.outputs.size(); i < outs.size() && status == cudaSuccess; ++i)
          status = cudaMemsetAsync(outs[i].data, 0, sizeof(int64_t), stream);
      }
      require(status == cudaSuccess, cudaGetErrorName(status), ": ", cudaGetErrorString(status));
      return 0;
    });
  }

  trt::PluginV3* attach_to_context(void*) noexcept override { return clone(); }

  trt::FieldCollection const* fields_to_serialize() noexcept override {
    return guard<trt::FieldCollection const*>("getFieldsToSerialize", nullptr,
                                              [&] { return storage_.values(*op_, inputs_); });
  }

 private:
  template <class Result, class Body>
  Result guard(char const* where, Result failure, Body&& body) const noexcept {
    return guarded(type_.name.c_str(), where, failure, std::forward<Body>(body));
  }

  // Whether an output is none of the op's own, but the extent of one that is counted.
  bool is_count(int32_t output) const { return output >= static_cast<int32_t>(type_.outputs.size()); }

  std::vector<Shape> infer_shapes(std::vector<Tensor> const& inputs) const {
    std::vector<Shape> shapes(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].present()) continue;
      shapes[i].rank = 0;
      for (int d = 0; d < inputs[i].rank; ++d) shapes[i].append(inputs[i][d]);
    }
    return bridge::infer_shapes(type_, *op_, shapes);
  }

  struct Tensors {
    std::vector<Tensor> inputs, outputs;
  };

  // Of the profile's greatest extents.
  Tensors largest_tensors(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                          int32_t num_out) const {
    Tensors tensors{std::vector<Tensor>(type_.inputs.size()), {}};
    std::vector<int> const slots = input_slots(type_, inputs_, num_in);
    for (int i = 0; i < num_in; ++i) tensors.inputs[slots[i]] = to_tensor(in[i].max, in[i].desc, nullptr);
    for (int i = 0; i < num_out; ++i) tensors.outputs.push_back(to_tensor(out[i].max, out[i].desc, nullptr));
    return tensors;
  }

  // The op's inputs, by on_shape_change's slots. data: their addresses, or null.
  std::vector<Tensor> inputs_of(trt::TensorDesc const* in, void const* const* data) const {
    std::vector<Tensor> found(type_.inputs.size());
    for (size_t i = 0; i < slots_.size(); ++i)
      found[slots_[i]] = to_tensor(in[i].dims, in[i], data ? const_cast<void*>(data[i]) : nullptr);
    return found;
  }

  // Memory for what the op derives from an input that never changes, where it is of no known way yet.
  void make_room(trt::TensorDesc const* in, trt::TensorDesc const* out, int32_t num_out) {
    derived_ = {};
    char const* const input = op_->derived_from();
    if (!input || !is_constant(inputs_, input)) return;
    std::vector<Tensor> ins = inputs_of(in, nullptr), outs;
    for (int i = 0; i < num_out; ++i) outs.push_back(to_tensor(out[i].dims, out[i], nullptr));
    derived_ = op_->derived(ins.data(), outs.data());
    if (derived_.bytes && !kept_.count(derived_.way)) kept_.try_emplace(derived_.way, derived_.bytes);
  }

  // What was derived for these sizes; null where the op must do it itself. A stream that is captured would write it in
  // every replay, and not before.
  void const* derived_memory(std::vector<Tensor> const& ins, std::vector<Tensor> const& outs, cudaStream_t stream) {
    auto const found = derived_.bytes ? kept_.find(derived_.way) : kept_.end();
    if (found == kept_.end() || !found->second.data()) return nullptr;
    DeviceMemory& memory = found->second;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
    if (!memory.filled && cudaStreamIsCapturing(stream, &capture) == cudaSuccess &&
        capture == cudaStreamCaptureStatusNone) {
      memory.filled = op_->derive(ins.data(), outs.data(), memory.data(), stream) == cudaSuccess;
    }
    return memory.filled ? memory.data() : nullptr;
  }

  // What tactics' times depend on beside shapes and dtypes: the op with its attributes.
  std::string timing_id() {
    std::ostringstream text;
    text << kNamespace << "::" << type_.name << ' ' << kVersion << '(' << inputs_;
    auto write = [&](auto const* value) {
      using Value = std::decay_t<decltype(*value)>;
      if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
        text << *value;
      } else {
        for (auto const& item : *value) text << item << ' ';
      }
    };
    for (Attribute const& attribute : op_->attributes()) {
      text << ", " << attribute.name << '=';
      std::visit(write, attribute.value);
    }
    text << ')';
    return text.str();
  }

  template <class Desc>
  int32_t check(int32_t num_in, Desc&& desc) const {
    std::vector<Shape> shapes(type_.inputs.size());
    std::vector<Tensor> tensors(type_.inputs.size());
    std::vector<int> const slots = input_slots(type_, inputs_, num_in);
    for (int i = 0; i < num_in; ++i) {
      shapes[slots[i]] = to_shape(desc(i).dims);
      tensors[slots[i]] = to_tensor(desc(i).dims, desc(i), nullptr);
    }
    check_dtypes(type_, tensors.data());
    bridge::infer_shapes(type_, *op_, shapes);
    return 0;
  }

  OpType const& type_;
  std::unique_ptr<Op> op_;
  std::string inputs_;        // the field `tensors`
  std::vector<int> slots_;    // where each tensor given stands in the signature; set by on_shape_change
  std::vector<int> tactics_;  // the op's numbers of them, and what names their times; set by configure
  std::string timing_id_;
  FieldStorage storage_;
  Op::Derived derived_;               // of the shapes there are, set by on_shape_change
  std::map<int, DeviceMemory> kept_;  // by way; of this context alone
};

class Creator final : public trt::PluginCreator {
 public:
  explicit Creator(OpType const& type) : type_(type), prototype_(type.create()), fields_(storage_.names(*prototype_)) {}

  trt::PluginV3* create_plugin(char const*, trt::FieldCollection const* fields, int32_t) noexcept override {
    return guarded<trt::PluginV3*>(type_.name.c_str(), "createPlugin", nullptr, [&] {
      std::unique_ptr<Op> op = type_.create();
      std::string inputs = read_fields(type_, *op, fields);
      return new Plugin(type_, std::move(op), std::move(inputs));
    });
  }
  trt::FieldCollection const* field_names() noexcept override { return fields_; }
  char const* plugin_name() const noexcept override { return type_.name.c_str(); }
  char const* plugin_version() const noexcept override { return kVersion; }
  char const* plugin_namespace() const noexcept override { return kNamespace; }

 private:
  OpType const& type_;
  std::unique_ptr<Op> prototype_;
  FieldStorage storage_;
  trt::FieldCollection const* fields_;
};

// Made when first asked for, when every op has registered; lives as long as the process, for registries keep the
// pointers.
std::vector<trt::Versioned*> const& creators() {
  static auto const* all = [] {
    auto* list = new std::vector<trt::Versioned*>();
    for (OpType const* type : op_table()) list->push_back(new Creator(*type));
    return list;
  }();
  return *all;
}

}  // namespace
}  // namespace bridge

BRIDGE_EXPORT bridge::trt::Versioned* const* getCreators(int32_t& count) {
  try {
    auto const& all = bridge::creators();
    count = static_cast<int32_t>(all.size());
    return all.data();
  } catch (...) {
    count = 0;
    return nullptr;
  }
}

BRIDGE_EXPORT void setLoggerFinder(void*) {}
