#include "hosts/tensorrt/plugin/build_half.h"

#include <sstream>
#include <type_traits>
#include <variant>

#include "hosts/tensorrt/expressions.h"

namespace bridge {
namespace {

struct Tensors {
  std::vector<Tensor> inputs, outputs;
};

// Of the profile's greatest extents.
Tensors largest_tensors(PluginOp const& plugin, trt::DynamicTensorDesc const* in, int32_t num_in,
                        trt::DynamicTensorDesc const* out, int32_t num_out) {
  Tensors tensors{std::vector<Tensor>(plugin.type.inputs.size()), {}};
  std::vector<int> const slots = plugin.slots(num_in);
  auto largest = [&](trt::DynamicTensorDesc const& each) {
    require_size(plugin.type, to_shape(each.max));
    return to_tensor(each.max, each.desc);
  };
  for (int i = 0; i < num_in; ++i) tensors.inputs[slots[i]] = largest(in[i]);
  for (int i = 0; i < num_out; ++i) tensors.outputs.push_back(largest(out[i]));
  return tensors;
}

// What tactics' times depend on beside shapes and dtypes: the op with its attributes.
std::string timing_id(PluginOp const& plugin) {
  std::ostringstream text;
  text.precision(17);
  text << kNamespace << "::" << plugin.type.name << ' ' << kVersion << '(' << plugin.given;
  auto write = [&](auto const* value) {
    using Value = std::decay_t<decltype(*value)>;
    if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
      text << *value;
    } else {
      for (auto const& item : *value) text << item << ' ';
    }
  };
  for (Attribute const& attribute : plugin.op->attributes()) {
    text << ", " << attribute.name << '=';
    std::visit(write, attribute.value);
  }
  text << ')';
  return text.str();
}

std::vector<Shape> input_expressions(PluginOp const& plugin, trt::DimsExprs const* in, int32_t num_in,
                                     Expressions& expressions) {
  std::vector<Shape> inputs(plugin.type.inputs.size());
  std::vector<int> const slots = plugin.slots(num_in);
  for (int i = 0; i < num_in; ++i) {
    inputs[slots[i]].rank = 0;
    for (int d = 0; d < checked_rank(in[i].rank); ++d) {
      require(in[i].extent[d] != nullptr, "input ", i, " has no expression for its dimension ", d);
      inputs[slots[i]].append(Dim::expression(&expressions, in[i].extent[d]));
    }
  }
  return inputs;
}

// Outputs that are counted: their first extent is a further output's value, which is taken for the most where it is
// tuned.
void declare_counts(PluginOp const& plugin, trt::DimsExprs* out, trt::ExprBuilder& builder) {
  auto place = static_cast<int32_t>(plugin.type.outputs.size());
  for (size_t counted : plugin.type.counts()) {
    trt::DimensionExpr const*& extent = out[counted].extent[0];
    out[place].rank = 0;
    extent = builder.impl->declare_size_tensor(place++, *extent, *extent);
    require(extent != nullptr, "TensorRT refused a size tensor");
  }
}

}  // namespace

int32_t BuildHalf::configure(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                             int32_t num_out) noexcept {
  return plugin_.guard("configurePlugin", 1, [&] {
    plugin_.require_tensors(in, num_in, out, num_out);
    plugin_.outputs(plugin_.inputs(in, num_in));
    Tensors const largest = largest_tensors(plugin_, in, num_in, out, num_out);
    tactics_ = plugin_.op->tactics(largest.inputs.data(), largest.outputs.data());
    timing_id_ = timing_id(plugin_);
    int const own = plugin_.op->own_tactic(largest.inputs.data(), largest.outputs.data());
    metadata_ = own < 0 ? "" : "own tactic " + std::to_string(to_trt_tactic(own));
    return 0;
  });
}

int32_t BuildHalf::output_dtypes(int32_t* out, int32_t num_out, int32_t const* in, int32_t num_in) const noexcept {
  return plugin_.guard("getOutputDataTypes", 1, [&] {
    plugin_.require_tensors(in, num_in, out, num_out);
    for (int i = 0; i < num_out; ++i) {
      bool const counts = plugin_.is_count(i);
      out[i] = to_trt(counts ? DType::kInt64 : output_dtype(*plugin_.op, plugin_.type.outputs[i], from_trt(in[0])));
    }
    return 0;
  });
}

int32_t BuildHalf::output_shapes(trt::DimsExprs const* in, int32_t num_in, trt::DimsExprs const*, int32_t,
                                 trt::DimsExprs* out, int32_t num_out, trt::ExprBuilder& builder) noexcept {
  return plugin_.guard("getOutputShapes", 1, [&] {
    plugin_.require_tensors(in, num_in, out, num_out);
    BuilderExpressions expressions(builder);
    std::vector<Shape> const inputs = input_expressions(plugin_, in, num_in, expressions);
    std::vector<Shape> outputs(plugin_.type.outputs.size());
    plugin_.op->shapes(inputs.data(), outputs.data());
    for (size_t i = 0; i < outputs.size(); ++i) {
      out[i].rank = outputs[i].rank;
      for (int d = 0; d < out[i].rank; ++d)
        out[i].extent[d] = static_cast<trt::DimensionExpr const*>(outputs[i][d].handle(expressions));
    }
    declare_counts(plugin_, out, builder);
    return 0;
  });
}

bool BuildHalf::supports_format(int32_t position, trt::DynamicTensorDesc const* in_out, int32_t num_in,
                                int32_t num_out) noexcept {
  return plugin_.guard("supportsFormatCombination", false, [&] {
    plugin_.require_tensors(in_out, num_in, in_out, num_out);
    require(position >= 0 && position < num_in + num_out, "there is no tensor ", position);
    trt::TensorDesc const& desc = in_out[position].desc;
    if (plugin_.is_count(position - num_in)) return desc.format == trt::kLinear && desc.dtype == trt::kInt64;
    OpType const& type = plugin_.type;
    bool const is_input = position < num_in;
    Param const& param = is_input ? type.inputs[plugin_.slots(num_in)[position]] : type.outputs.at(position - num_in);
    DType const dtype = from_trt(desc.dtype), first = from_trt(in_out[0].desc.dtype);
    bool const chosen = is_input || dtype == output_dtype(*plugin_.op, param, first);
    bool const built = is_built_in(param, desc) && fits_first(param, desc, in_out[0].desc);
    return built && accepts(param.types, dtype, first) && chosen;
  });
}

size_t BuildHalf::workspace_size(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                                 int32_t num_out) const noexcept {
  return plugin_.guard("getWorkspaceSize", size_t(0), [&] {
    plugin_.require_tensors(in, num_in, out, num_out);
    Tensors const largest = largest_tensors(plugin_, in, num_in, out, num_out);
    return plugin_.op->workspace(largest.inputs.data(), largest.outputs.data());
  });
}

int32_t BuildHalf::num_tactics() noexcept {
  return tactics_.empty() ? 0 : static_cast<int32_t>(tactics_.size()) + kOwnChoice;
}

int32_t BuildHalf::valid_tactics(int32_t* tactics, int32_t count) noexcept {
  if (count != num_tactics() || (count > 0 && !tactics)) return 1;
  for (int i = 0; i < count; ++i) tactics[i] = i == 0 ? kOwnChoice : to_trt_tactic(tactics_[i - 1]);
  return 0;
}

}  // namespace bridge
