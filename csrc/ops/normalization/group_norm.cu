#include <cmath>

#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/normalization/group_norm.cuh"

namespace bridge {
namespace {

constexpr struct {
  char const* name;
  Activation activation;
} kActivations[] = {
    {"none", Activation::kNone}, {"silu", Activation::kSilu}, {"relu", Activation::kRelu}, {"gelu", Activation::kGelu}};

struct GroupNorm final : Op {
  static constexpr char const* name = "group_norm";
  static constexpr int kDirect = 0, kPasses = 1;  // tactics, for tests
  static std::vector<Param> inputs() {
    return {in_layout_of_first({"x", kFloating}),     // [batch, channels, ...]
            {"weight", kLikeFirst | kFloat32, true},  // [channels]
            {"bias", kLikeFirst | kFloat32, true}};   // [channels]
  }
  static std::vector<Param> outputs() {
    return {in_layout_of_first({"y", kLikeFirst})};  // as x
  }

  int64_t groups = 32;
  double eps = 1e-5;
  std::string activation = "none";

  std::vector<Attribute> attributes() override {
    return {{"groups", &groups}, {"eps", &eps}, {"activation", &activation}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const& x = in[0];
    require(x.rank >= 2, name, ": x must have 2 dimensions or more, got shape ", x);
    require(groups >= 1, name, ": groups is ", groups, ", expected 1 or more");
    require(std::isfinite(eps) && eps >= 0, name, ": eps is ", eps, ", expected a number of 0 or more");
    (void)activation_of();
    require(may_exceed(x[1], 0) && may_divide(groups, x[1]), name, ": x has ", x[1],
            " channels, expected a multiple of the ", groups, " groups");
    for (int i : {1, 2})
      if (in[i].present()) require_shape(name, inputs()[i].name, in[i], {x[1]});
    out[0] = x;
  }

  size_t workspace(Tensor const* in, Tensor const*) const override {
    Tensor const& x = in[0];
    bool const held =
        x.layout == Layout::kLinear && always_held((places_of(x) * floor_div(Size(x[1]), groups)).value());
    return held ? 0 : pass_workspace(x[0], groups).bytes();
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    GroupNormWay const way = tactic == kDirect   ? GroupNormWay::kDirect
                             : tactic == kPasses ? GroupNormWay::kPasses
                                                 : GroupNormWay::kOwn;
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      return launch_group_norm(arguments<decltype(tag)>(in, out), way, current_device(),
                               static_cast<Moments*>(workspace), stream);
    });
  }

 private:
  Activation activation_of() const {
    for (auto const& each : kActivations)
      if (activation == each.name) return each.activation;
    require(false, name, ": activation is \"", activation, "\", expected none, silu, relu or gelu");
    return Activation::kNone;
  }

  static Size places_of(Tensor const& x) {
    Size places = 1;
    for (int axis = 2; axis < x.rank; ++axis) places = places * x[axis];
    return places;
  }

  template <class T>
  GroupNormArguments<T> arguments(Tensor const* in, Tensor const* out) const {
    Tensor const &x = in[0], &weight = in[1], &bias = in[2];
    Size const places = places_of(x);
    GroupNormArguments<T> a{};
    a.x = static_cast<T const*>(x.data), a.y = static_cast<T*>(out[0].data);
    a.weight = weight.present() ? weight.data : nullptr, a.wide_weight = weight.dtype == DType::kFloat32;
    a.bias = bias.present() ? bias.data : nullptr, a.wide_bias = bias.dtype == DType::kFloat32;
    a.channels_last = x.layout == Layout::kChannelsLast, a.activation = activation_of();
    a.batch = x[0], a.channels = to_int(x[1]), a.groups = to_int(groups), a.places = to_int(places.value());
    to_int((places * Size(a.depth())).value());  // of a group
    a.eps = static_cast<float>(eps), a.of_places = reciprocal_of(a.places);
    return a;
  }
};

Register<GroupNorm> const group_norm;

}  // namespace
}  // namespace bridge
