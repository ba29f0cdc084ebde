// mynamespace::myop as bridge sees it: its signature, its checks, and which kernel runs.
#include <bridge/core/dispatch.h>
#include <bridge/core/op.h>

#include "myop.cuh"

namespace {

struct MyOp final : bridge::Op {
  static constexpr char const* name = "myop";
  static std::vector<bridge::Param> inputs() {
    return {{"x", bridge::kFloating}};  // any shape
  }
  static std::vector<bridge::Param> outputs() {
    return {{"y", bridge::kLikeFirst}};  // as x
  }

  double limit = 1.0;

  std::vector<bridge::Attribute> attributes() override { return {{"limit", &limit}}; }

  void shapes(bridge::Shape const* in, bridge::Shape* out) const override {
    bridge::require(limit >= 1e-30 && limit <= 1e30, "myop: limit is ", limit, ", expected 1e-30 to 1e30");
    out[0] = in[0];
  }

  cudaError_t run(bridge::Tensor const* in, bridge::Tensor const* out, void*, cudaStream_t stream) const override {
    return bridge::dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      return mynamespace_ops::launch_myop(static_cast<T const*>(in[0].data), static_cast<T*>(out[0].data),
                                          in[0].numel(), static_cast<float>(limit), stream);
    });
  }
};

bridge::Register<MyOp> const registered;

}  // namespace
