// TensorRT as a host: every op of the table as an IPluginV3, in the namespace "bridge".
#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>

#include "hosts/tensorrt/device_memory.h"
#include "hosts/tensorrt/fields.h"
#include "hosts/tensorrt/types.h"

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
      copy->current_ = current_;
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
      require_tensors(in, num_in, out, num_out);
      check(num_in, [&](int i) -> trt::TensorDesc const& { return in[i].desc; });
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
    if (count != num_tactics() || (count > 0 && !tactics)) return 1;
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
      require_tensors(in, num_in, out, num_out);
      for (int i = 0; i < num_out; ++i)
        out[i] = is_count(i) ? trt::kInt64 : to_trt(output_dtype(type_.outputs[i], from_trt(in[0])));
      return 0;
    });
  }

  int32_t output_shapes(trt::DimsExprs const* in, int32_t num_in, trt::DimsExprs const*, int32_t, trt::DimsExprs* out,
                        int32_t num_out, trt::ExprBuilder& builder) noexcept override {
    return guard("getOutputShapes", 1, [&] {
      require_tensors(in, num_in, out, num_out);
      BuilderExpressions expressions(builder);
      std::vector<Shape> inputs(type_.inputs.size()), outputs(type_.outputs.size());
      std::vector<int> const slots = input_slots(type_, inputs_, num_in);
      for (int i = 0; i < num_in; ++i) {
        inputs[slots[i]].rank = 0;
        for (int d = 0; d < checked_rank(in[i].rank); ++d) {
          require(in[i].extent[d] != nullptr, "input ", i, " has no expression for its dimension ", d);
          inputs[slots[i]].append(Dim::expression(&expressions, in[i].extent[d]));
        }
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
                       int32_t num_out) noexcept override {
    return guard("supportsFormatCombination", false, [&] {
      require_tensors(in_out, num_in, in_out, num_out);
      require(position >= 0 && position < num_in + num_out, "there is no tensor ", position);
      trt::TensorDesc const& desc = in_out[position].desc;
      if (is_count(position - num_in)) return desc.format == trt::kLinear && desc.dtype == trt::kInt64;
      Param const& param = position < num_in ? type_.inputs[input_slots(type_, inputs_, num_in)[position]]
                                             : type_.outputs.at(position - num_in);
      return takes_format(param, desc) && accepts(param.types, from_trt(desc.dtype), from_trt(in_out[0].desc.dtype));
    });
  }

  size_t workspace_size(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                        int32_t num_out) const noexcept override {
    return guard("getWorkspaceSize", size_t(0), [&] {
      require_tensors(in, num_in, out, num_out);
      Tensors const largest = largest_tensors(in, num_in, out, num_out);
      return op_->workspace(largest.inputs.data(), largest.outputs.data());
    });
  }

  // PluginRuntime
  int32_t on_shape_change(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out,
                          int32_t num_out) noexcept override {
    current_ = {};
    return guard("onShapeChange", 1, [&] {
      require_tensors(in, num_in, out, num_out);
      take_shapes(in, num_in, out);
      make_room();
      return 0;
    });
  }

  int32_t enqueue(trt::TensorDesc const* in, trt::TensorDesc const* out, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guard("enqueue", 1, [&] {
      require(!current_.in.empty(), "there was no onShapeChange before it, or it was refused");
      require(in && out && inputs && outputs, "tensors are null");
      if (!current_.known || !current_.is_of(in, out)) take_shapes(in, static_cast<int32_t>(current_.in.size()), out);
      require(current_.known, "an input has an extent that is not known");
      Tensors& tensors = current_.tensors;
      for (size_t i = 0; i < current_.in.size(); ++i)
        set_data(tensors.inputs[current_.slots[i]], const_cast<void*>(inputs[i]));
      bool empty = true;
      for (size_t i = 0; i < tensors.outputs.size(); ++i) {
        set_data(tensors.outputs[i], outputs[i]);
        empty = empty && (is_count(static_cast<int32_t>(i)) || tensors.outputs[i].numel() == 0);
      }
      cudaError_t const status = empty ? clear_counts(stream) : run(workspace, stream);
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

  struct Tensors {
    std::vector<Tensor> inputs, outputs;
  };

  // Of the profile's greatest extents.
  Tensors largest_tensors(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                          int32_t num_out) const {
    Tensors tensors{std::vector<Tensor>(type_.inputs.size()), {}};
    std::vector<int> const slots = input_slots(type_, inputs_, num_in);
    auto largest = [&](trt::DynamicTensorDesc const& each) {
      require_size(type_, to_shape(each.max));
      return to_tensor(each.max, each.desc, nullptr);
    };
    for (int i = 0; i < num_in; ++i) tensors.inputs[slots[i]] = largest(in[i]);
    for (int i = 0; i < num_out; ++i) tensors.outputs.push_back(largest(out[i]));
    return tensors;
  }

  // What on_shape_change was told, and how the op sees it.
  struct Current {
    std::vector<trt::TensorDesc> in, out;
    std::vector<int> slots;  // where each tensor given stands in the signature
    Tensors tensors;
    Op::Derived derived;
    bool known = true;  // every extent of the inputs is a number

    bool is_of(trt::TensorDesc const* inputs, trt::TensorDesc const* outputs) const {
      return std::equal(in.begin(), in.end(), inputs, same_desc) &&
             std::equal(out.begin(), out.end(), outputs, same_desc);
    }
  };

  // Checks the shapes of a run, and keeps them. Those of outputs are the op's own: TensorRT does not tell all of them.
  // An input's may be told by enqueue alone, where it depends on values.
  void take_shapes(trt::TensorDesc const* in, int32_t num_in, trt::TensorDesc const* out) {
    Current next;
    next.slots = input_slots(type_, inputs_, num_in);
    next.in.assign(in, in + num_in), next.out.assign(out, out + num_outputs());
    for (int i = 0; i < num_in; ++i) require_format(type_.inputs[next.slots[i]], in[i]);
    std::vector<Shape> const shapes = check(num_in, [&](int i) -> trt::TensorDesc const& { return in[i]; });
    next.tensors.inputs.resize(type_.inputs.size());
    for (int i = 0; i < num_in; ++i) {
      next.tensors.inputs[next.slots[i]] = to_tensor(in[i].dims, in[i], nullptr);
      for (int d = 0; d < in[i].dims.rank; ++d) next.known = next.known && in[i].dims.extent[d] >= 0;
    }
    for (int i = 0; i < num_outputs(); ++i) {
      Tensor tensor = to_tensor(out[i].dims, out[i], nullptr);
      DType const expected = is_count(i) ? DType::kInt64 : output_dtype(type_.outputs[i], from_trt(in[0].dtype));
      require(tensor.dtype == expected, "output ", i, " is ", dtype_name(tensor.dtype), ", expected ",
              dtype_name(expected));
      if (!is_count(i)) {
        require_format(type_.outputs[i], out[i]);
        tensor.rank = shapes[i].rank;
        for (int d = 0; d < tensor.rank; ++d) tensor.sizes[d] = shapes[i][d].value();
      }
      next.tensors.outputs.push_back(tensor);
    }
    current_ = std::move(next);
  }

  static void require_format(Param const& param, trt::TensorDesc const& desc) {
    checked_rank(desc.dims.rank);
    require(takes_format(param, desc), param.name, " comes in format ", desc.format, ", which it is not taken in");
  }

  static void set_data(Tensor& tensor, void* data) {
    require(data || tensor.numel() == 0, "a tensor of ", tensor.numel(), " elements is null");
    tensor.data = data;
  }

  cudaError_t run(void* workspace, cudaStream_t stream) {
    std::vector<Tensor> const &ins = current_.tensors.inputs, &outs = current_.tensors.outputs;
    op_->derived_memory = derived_memory(ins, outs, stream);
    return op_->run(ins.data(), outs.data(), workspace, stream);
  }

  // Of outputs without elements.
  cudaError_t clear_counts(cudaStream_t stream) {
    cudaError_t status = cudaSuccess;
    std::vector<Tensor> const& outs = current_.tensors.outputs;
    for (size_t i = type_.outputs.size(); i < outs.size() && status == cudaSuccess; ++i)
      status = cudaMemsetAsync(outs[i].data, 0, sizeof(int64_t), stream);
    return status;
  }

  // Memory for what the op derives from an input that never changes, where it is of no known way yet.
  void make_room() {
    char const* const input = op_->derived_from();
    if (!input || !is_constant(inputs_, input) || !current_.known) return;
    Op::Derived const found = op_->derived(current_.tensors.inputs.data(), current_.tensors.outputs.data());
    if (found.bytes && !kept_.count(found.way)) kept_.try_emplace(found.way, found.bytes);
    current_.derived = found;
  }

  // What was derived for these sizes; null where the op must do it itself. A stream that is captured would write it in
  // every replay, and not before.
  void const* derived_memory(std::vector<Tensor> const& ins, std::vector<Tensor> const& outs, cudaStream_t stream) {
    auto const found = current_.derived.bytes ? kept_.find(current_.derived.way) : kept_.end();
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
    text.precision(17);
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

  // Arrays and counts as an interface gets them.
  void require_tensors(void const* in, int32_t num_in, void const* out, int32_t num_out) const {
    require(num_out == num_outputs(), type_.name, ": got ", num_out, " outputs, expected ", num_outputs());
    auto const most = static_cast<int32_t>(type_.inputs.size());
    require(num_in <= most, type_.name, ": got ", num_in, " tensors, expected at most ", most);
    require(num_in >= 1, type_.name, ": got ", num_in, " tensors, expected 1 or more");
    require(in && out, "tensors are null");
  }

  // Checks dtypes, shapes and sizes; returns the outputs' shapes.
  template <class Desc>
  std::vector<Shape> check(int32_t num_in, Desc&& desc) const {
    std::vector<Shape> shapes(type_.inputs.size());
    std::vector<Tensor> tensors(type_.inputs.size());
    std::vector<int> const slots = input_slots(type_, inputs_, num_in);
    for (int i = 0; i < num_in; ++i) {
      shapes[slots[i]] = to_shape(desc(i).dims);
      tensors[slots[i]] = to_tensor(desc(i).dims, desc(i), nullptr);
    }
    check_dtypes(type_, tensors.data());
    return infer_shapes(type_, *op_, shapes);
  }

  OpType const& type_;
  std::unique_ptr<Op> op_;
  std::string inputs_;        // the field `tensors`
  Current current_;           // set by on_shape_change; without tensors where it was refused
  std::vector<int> tactics_;  // the op's numbers of them, and what names their times; set by configure
  std::string timing_id_;
  FieldStorage storage_;
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
