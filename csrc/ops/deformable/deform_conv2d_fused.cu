#include <cmath>

#include "ops/deformable/deform_conv2d.h"

namespace bridge {
namespace {

struct DeformConv2dFused final : DeformConv2dOp {
  static constexpr char const* name = "deform_conv2d_fused";
  static std::vector<Param> inputs() {
    return {or_channels_last({"x", kFloating}),  // [batch, channels, height, width]
            {"prediction", kLikeFirst},          // [batch, offset_groups * taps * of_tap(), out_height, out_width]
            {"weight", kLikeFirst},              // [out_channels, channels / groups, kernel_h, kernel_w]
            {"bias", kLikeFirst, true}};         // [out_channels]
  }
  static std::vector<Param> outputs() {
    return {or_channels_last({"y", kLikeFirst})};  // [batch, out_channels, out_height, out_width]
  }

  bool modulated = true;
  std::string activation = "none";
  double negative_slope = 0.01;

  std::vector<Attribute> attributes() override {
    return {{"stride", &stride},        {"padding", &padding},       {"dilation", &dilation},
            {"modulated", &modulated},  {"activation", &activation}, {"negative_slope", &negative_slope},
            {"allow_tf32", &allow_tf32}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    require(activation == "none" || activation == "relu" || activation == "leaky_relu", name, ": activation is \"",
            activation, "\", expected none, relu or leaky_relu");
    require(std::isfinite(negative_slope), name, ": negative_slope is ", negative_slope, ", expected a finite number");
    out[0] = check(name, in[0], "prediction", in[1], of_tap(), in[2], in[3]);
  }

 private:
  int of_tap() const { return modulated ? 3 : 2; }

  Operands operands(Tensor const* in) const override {
    float const slope = activation == "leaky_relu" ? static_cast<float>(negative_slope) : 1.f;
    return {in[0], in[1], in[2], in[3], nullptr, of_tap(), activation == "relu" ? 0.f : -INFINITY, slope};
  }
};

Register<DeformConv2dFused> const deform_conv2d_fused;

}  // namespace
}  // namespace bridge
