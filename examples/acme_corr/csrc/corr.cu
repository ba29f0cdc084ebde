// acme::corr as bridge sees it: its signature, its checks, and which kernel runs.
#include <bridge/core/dispatch.h>
#include <bridge/core/op.h>

#include "corr.cuh"

namespace {

using bridge::require;

struct Corr final : bridge::Op {
  static constexpr char const* name = "corr";
  static std::vector<bridge::Param> inputs() {
    return {{"f1", bridge::kFloating},    // [B, C, H, W]
            {"f2", bridge::kLikeFirst}};  // [B, C, H, W]
  }
  static std::vector<bridge::Param> outputs() {
    return {{"cost", bridge::kLikeFirst},   // [B, (2 RY + 1) * (2 RX + 1), H, W]
            {"flow", bridge::kLikeFirst}};  // [B, 2, H, W]
  }

  std::vector<int64_t> radii{4, 4};  // RY, RX

  std::vector<bridge::Attribute> attributes() override { return {{"radii", &radii}}; }

  void shapes(bridge::Shape const* in, bridge::Shape* out) const override {
    require(radii.size() == 2, "corr: radii has ", radii.size(), " numbers, expected [vertical, horizontal]");
    for (int64_t radius : radii) {
      require(radius >= 0 && radius <= acme_ops::kMostRadius, "corr: radii has ", radius, ", expected 0 to ",
              acme_ops::kMostRadius);
    }
    bridge::Shape const& f1 = in[0];
    require(f1.rank == 4, "corr: f1 has shape ", f1, ", expected [B, C, H, W]");
    require(may_exceed(f1[1], 0), "corr: f1 has shape ", f1, ", expected a channel at least");
    bridge::require_shape("corr", "f2", in[1], f1);
    out[0] = {f1[0], (2 * radii[0] + 1) * (2 * radii[1] + 1), f1[2], f1[3]};
    out[1] = {f1[0], 2, f1[2], f1[3]};
  }

  cudaError_t run(bridge::Tensor const* in, bridge::Tensor const* out, void*, cudaStream_t stream) const override {
    return bridge::dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      acme_ops::CorrArguments<T> a{};
      a.f1 = static_cast<T const*>(in[0].data), a.f2 = static_cast<T const*>(in[1].data);
      a.cost = static_cast<T*>(out[0].data), a.flow = static_cast<T*>(out[1].data);
      a.batch = in[0][0], a.channels = bridge::to_int(in[0][1]);
      a.height = bridge::to_int(in[0][2]), a.width = bridge::to_int(in[0][3]);
      a.ry = bridge::to_int(radii[0]), a.rx = bridge::to_int(radii[1]);
      return acme_ops::launch_corr(a, stream);
    });
  }
};

bridge::Register<Corr> const registered;

}  // namespace
