#include <cmath>

#include "core/device.h"
#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/normalization/local_response_norm.cuh"

namespace bridge {
namespace {

struct LocalResponseNorm final : Op {
  static constexpr char const* name = "local_response_norm";
  static constexpr int kReading = 0;  // a tactic, for tests: the kernel of any size
  static std::vector<Param> inputs() {
    return {{"x", kFloating}};  // [batch, channels, ...]
  }
  static std::vector<Param> outputs() {
    return {{"y", kLikeFirst}};  // as x
  }

  int64_t size = 5;
  double alpha = 1e-4, beta = 0.75, k = 1.0;

  std::vector<Attribute> attributes() override {
    return {{"size", &size}, {"alpha", &alpha}, {"beta", &beta}, {"k", &k}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    require(in[0].rank >= 3, name, ": x must have 3 dimensions or more, got shape ", in[0]);
    require(size >= 1, name, ": size is ", size, ", expected 1 or more");
    require(std::isfinite(alpha), name, ": alpha is ", alpha, ", expected a finite number");
    require(std::isfinite(beta), name, ": beta is ", beta, ", expected a finite number");
    require(std::isfinite(k), name, ": k is ", k, ", expected a finite number");
    out[0] = in[0];
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      auto const a = arguments<decltype(tag)>(in[0], out[0]);
      return launch_local_response_norm(a, tactic != kReading, current_device().multiprocessors, stream);
    });
  }

 private:
  template <class T>
  LocalResponseNormArguments<T> arguments(Tensor const& x, Tensor const& y) const {
    Size places = 1;
    for (int axis = 2; axis < x.rank; ++axis) places = places * x[axis];
    LocalResponseNormArguments<T> a{};
    a.x = static_cast<T const*>(x.data), a.y = static_cast<T*>(y.data);
    a.batch = x[0], a.channels = to_int(x[1]), a.places = places.value();
    // A window of twice the channels reaches all of them from each.
    a.size = static_cast<int>(std::min<int64_t>(size, 2 * std::min<int64_t>(x[1], 1 << 29) + 1));
    a.alpha = static_cast<float>(alpha / double(size));
    a.beta = static_cast<float>(beta), a.k = static_cast<float>(k);
    return a;
  }
};

Register<LocalResponseNorm> const local_response_norm;

}  // namespace
}  // namespace bridge
