#include <cmath>

#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/pointwise/relu.cuh"

namespace bridge {
namespace {

struct Relu final : Op {
  static constexpr char const* name = "relu";
  static std::vector<Param> inputs() {
    return {{"x", kFloating}};  // any shape
  }
  static std::vector<Param> outputs() {
    return {{"y", kLikeFirst}};  // as x
  }

  double negative_slope = 0.0;
  double max_value = INFINITY;

  std::vector<Attribute> attributes() override {
    return {{"negative_slope", &negative_slope}, {"max_value", &max_value}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    require(!std::isnan(negative_slope) && !std::isnan(max_value),
            "relu: negative_slope and max_value must be numbers, got ", negative_slope, " and ", max_value);
    out[0] = in[0];
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      return launch_relu(static_cast<T const*>(in[0].data), static_cast<T*>(out[0].data), in[0].numel(),
                         static_cast<float>(negative_slope), static_cast<float>(max_value), stream);
    });
  }
};

Register<Relu> const relu;

}  // namespace
}  // namespace bridge
