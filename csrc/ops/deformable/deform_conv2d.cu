#include <cmath>
#include <utility>

#include "core/device.h"
#include "core/dispatch.h"
#include "kernels/deformable/deform_conv2d.cuh"
#include "ops/deformable/deform_conv2d.h"

namespace bridge {
namespace {

void check_channels(char const* op, Shape const& x, char const* called, Shape const& offset, int of_tap,
                    Shape const& weight) {
  require(may_divide(weight[1], x[1]), op, ": x has ", x[1], " channels, not a multiple of the weight's ", weight[1]);
  Dim const groups = floor_div(x[1], weight[1]);
  require(may_divide(groups, weight[0]), op, ": the weight's ", weight[0], " output channels do not divide into ",
          groups, " groups");
  Dim const of_group = of_tap * weight[2] * weight[3];
  require(may_divide(of_group, offset[1]) && may_exceed(offset[1], 0), op, ": ", called, " has ", offset[1],
          " channels, expected a multiple of ", of_tap, " * kernel height * kernel width = ", of_group);
  Dim const offset_groups = floor_div(offset[1], of_group);
  require(may_divide(offset_groups, x[1]), op, ": x's ", x[1], " channels do not divide into ", offset_groups,
          " offset groups");
}

void check_plane(char const* op, char const* what, Dim height, Dim width) {
  Dim const plane = height * width;
  require(!plane.known() || plane.value() < (int64_t(1) << 31), op, ": ", what, " of ", height, " x ", width,
          " has 2^31 elements or more");
}

struct DeformConv2d final : DeformConv2dOp {
  static constexpr char const* name = "deform_conv2d";
  static std::vector<Param> inputs() {
    return {or_channels_last({"x", kFloating}),  // [batch, channels, height, width]
            {"offset", kLikeFirst},              // [batch, offset_groups * taps * 2, out_height, out_width]
            {"weight", kLikeFirst},              // [out_channels, channels / groups, kernel_h, kernel_w]
            {"bias", kLikeFirst, true},          // [out_channels]
            {"mask", kLikeFirst, true}};         // [batch, offset_groups * taps, out_height, out_width]
  }
  static std::vector<Param> outputs() {
    return {{"y", kLikeFirst}};  // [batch, out_channels, out_height, out_width]
  }

  std::vector<Attribute> attributes() override {
    return {{"stride", &stride}, {"padding", &padding}, {"dilation", &dilation}, {"allow_tf32", &allow_tf32}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &offset = in[1], &mask = in[4];
    out[0] = check(name, in[0], "offset", offset, 2, in[2], in[3]);
    if (mask.present()) require_shape(name, "mask", mask, {in[0][0], floor_div(offset[1], 2), out[0][2], out[0][3]});
  }

 private:
  Operands operands(Tensor const* in) const override { return {in[0], in[1], in[2], in[3], &in[4], 2, -INFINITY, 1.f}; }
};

Register<DeformConv2d> const deform_conv2d;

}  // namespace

template <class T>
DeformConv2dArguments<T> DeformConv2dOp::arguments(Tensor const* in, Tensor const* out) const {
  auto const [x, offset, weight, bias, mask, of_tap, least, slope] = operands(in);
  Tensor const& y = out[0];
  auto data = [](Tensor const& tensor) { return tensor.present() ? static_cast<T const*>(tensor.data) : nullptr; };
  DeformConv2dArguments<T> a{};
  a.x = data(x), a.offset = data(offset), a.weight = data(weight), a.bias = data(bias);
  a.y = static_cast<T*>(y.data);
  a.batch = x[0], a.channels = x[1], a.out_channels = weight[0];
  a.height = to_int(x[2]), a.width = to_int(x[3]), a.out_height = to_int(y[2]), a.out_width = to_int(y[3]);
  a.kernel_h = to_int(weight[2]), a.kernel_w = to_int(weight[3]);
  a.stride_h = to_int(stride[0]), a.stride_w = to_int(stride[1]);
  a.padding_h = to_int(padding[0]), a.padding_w = to_int(padding[1]);
  a.dilation_h = to_int(dilation[0]), a.dilation_w = to_int(dilation[1]);
  a.tf32 = allow_tf32, a.channels_last = x.layout == Layout::kChannelsLast;
  a.y_channels_last = y.layout == Layout::kChannelsLast;
  // A builder may ask before extents are known, with numbers that `shapes` would refuse.
  int64_t const taps = to_int((Size(weight[2]) * weight[3]).value());
  a.groups = to_int(x[1] / std::max<int64_t>(weight[1], 1));
  a.offset_groups = to_int(offset[1] / std::max<int64_t>(of_tap * taps, 1));
  a.logits = of_tap == 3, a.activation = {least, slope};
  a.offset_image = offset[1] * a.out_plane(), a.mask_image = a.logits ? a.offset_image : a.offset_image / 2;
  if (a.logits && a.offset) a.mask = a.offset + 2 * a.offset_groups * taps * a.out_plane();
  if (mask) a.mask = data(*mask);
  return a;
}

// The kernel of this tactic or, where it cannot compute the convolution, the one that should take the least time.
// Without scratch memory it is the direct one, which needs none. Where x lies in memory does not decide: a host asks
// for what is derived before it knows.
template <class T>
DeformConv2dChoice DeformConv2dOp::choose(DeformConv2dArguments<T> a, bool has_workspace) const {
  Device const device = current_device();
  bool const whole_rows = aligned(std::exchange(a.x, nullptr), kRowBytes);
  auto choices =
      has_workspace ? deform_conv2d_choices(a, device.capability, has_column_workspace()) : std::vector<int>{0};
  if (std::find(choices.begin(), choices.end(), tactic) != choices.end()) choices = {tactic};
  DeformConv2dChoice choice = deform_conv2d_choice(a, choices, device.multiprocessors);
  choice.plan.as_it_is = choice.plan.as_it_is && whole_rows;
  return choice;
}

// Elsewhere no kernel reads columns.
int DeformConv2dOp::capability_with_workspace() const { return kColumnCapability; }

bool DeformConv2dOp::has_column_workspace() const {
  int const asked = workspace_capability < 0 ? current_device().capability : workspace_capability;
  return asked == kColumnCapability;
}

size_t DeformConv2dOp::workspace(Tensor const* in, Tensor const* out) const {
  size_t bytes = 0;
  dispatch_floating(in[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    auto const a = arguments<T>(in, out);
    DeformConv2dFit const fit(a, has_column_workspace());
    for (auto const& variant : deform_conv2d_variants<T>()) {
      if (variant.channels && fit.has(variant))
        bytes = std::max(bytes, deform_conv2d_workspace(a, plan_of(a, variant)));
    }
    return cudaSuccess;
  });
  return bytes;
}

std::vector<int> DeformConv2dOp::tactics(Tensor const* in, Tensor const* out) const {
  std::vector<int> found;
  Device const device = current_device();
  if (device.capability == 0) return found;
  dispatch_floating(in[0].dtype, [&](auto tag) {
    found = deform_conv2d_choices(arguments<decltype(tag)>(in, out), device.capability, has_column_workspace());
    return cudaSuccess;
  });
  return found;
}

int DeformConv2dOp::own_tactic(Tensor const* in, Tensor const* out) const {
  std::vector<int> const ways = tactics(in, out);
  if (ways.size() < 2) return ways.empty() ? -1 : ways.front();  // without extents there is no plan to compare
  int found = -1;
  dispatch_floating(in[0].dtype, [&](auto tag) {
    found = choose(arguments<decltype(tag)>(in, out), true).variant;
    return cudaSuccess;
  });
  return found;
}

Op::Derived DeformConv2dOp::derived(Tensor const* in, Tensor const* out) const {
  Derived found;
  if (current_device().capability == 0) return found;
  dispatch_floating(in[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    auto const choice = choose(arguments<T>(in, out), true);
    bool const packs = deform_conv2d_variants<T>()[choice.variant].channels > 0;
    if (packs) found = {choice.variant, packed_weight_bytes<T>(choice.plan)};
    return cudaSuccess;
  });
  return found;
}

cudaError_t DeformConv2dOp::derive(Tensor const* in, Tensor const* out, void* memory, cudaStream_t stream) const {
  return dispatch_floating(in[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    auto const a = arguments<T>(in, out);
    return launch_deform_conv2d_pack_weight(a, choose(a, true).plan, static_cast<T*>(memory), stream);
  });
}

cudaError_t DeformConv2dOp::run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const {
  return dispatch_floating(in[0].dtype, [&](auto tag) {
    using T = decltype(tag);
    auto a = arguments<T>(in, out);
    if (a.positions() == 0 || a.out_channels == 0) return cudaSuccess;
    a.packed_weight = static_cast<T const*>(derived_memory);
    auto const choice = choose(a, workspace != nullptr);
    return deform_conv2d_variants<T>()[choice.variant].launch(a, choice.plan, workspace, stream);
  });
}

Dim DeformConv2dOp::out_extent(Dim extent, Dim kernel, int axis) const {
  return floor_div(extent + 2 * padding[axis] - dilation[axis] * (kernel - 1) - 1, stride[axis]) + 1;
}

Shape DeformConv2dOp::check(char const* op, Shape const& x, char const* called, Shape const& offset, int of_tap,
                            Shape const& weight, Shape const& bias) const {
  check_attributes(op);
  require(x.rank == 4 && offset.rank == 4 && weight.rank == 4, op, ": x, ", called,
          " and weight must have 4 dimensions, got shapes ", x, ", ", offset, " and ", weight);
  check_channels(op, x, called, offset, of_tap, weight);
  Dim const out_height = out_extent(x[2], weight[2], 0), out_width = out_extent(x[3], weight[3], 1);
  for (int axis : {0, 1}) {
    Dim const room = x[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight[2 + axis] - 1);
    require(may_exceed(room, 0), op, ": the kernel ", weight[2], " x ", weight[3], " with dilation ", dilation[axis],
            " does not fit the padded input ", x);
  }
  check_plane(op, "the feature map", x[2], x[3]);
  check_plane(op, "the output", out_height, out_width);
  check_plane(op, "the kernel", weight[2], weight[3]);
  for (int axis : {0, 1}) check_plane(op, "the padded feature map", x[2 + axis] + 2 * padding[axis], 1);
  require_shape(op, called, offset, {x[0], offset[1], out_height, out_width});
  if (bias.present()) require_shape(op, "bias", bias, {weight[0]});
  return {x[0], weight[0], out_height, out_width};
}

void DeformConv2dOp::check_attributes(char const* op) const {
  constexpr int64_t kMax = 1 << 20;
  for (int axis : {0, 1}) {
    require(stride[axis] >= 1 && stride[axis] <= kMax, op, ": stride is ", stride[axis], ", expected 1 or more");
    require(dilation[axis] >= 1 && dilation[axis] <= kMax, op, ": dilation is ", dilation[axis],
            ", expected 1 or more");
    require(padding[axis] >= 0 && padding[axis] <= kMax, op, ": padding is ", padding[axis], ", expected 0 or more");
  }
}

}  // namespace bridge
