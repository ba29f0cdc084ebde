#include "core/device.h"
#include "kernels/detection/roi_align.cuh"
#include "ops/detection/regions.h"

namespace bridge {
namespace {

struct RoiAlign final : RegionsOp {
  static constexpr char const* name = "roi_align";
  static constexpr int kDirect = 0;  // a tactic, for tests; 1 or none: the kernel of the layout
  static std::vector<Param> inputs() {
    return {or_channels_last({"x", kFloating}),  // [batch, channels, height, width]
            {"rois", kFloating}};                // [rois, 5]
  }

  int64_t sampling_ratio = -1;
  bool aligned = false;

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size},
            {"spatial_scale", &spatial_scale},
            {"sampling_ratio", &sampling_ratio},
            {"aligned", &aligned}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_samples(name, sampling_ratio);
    check(name, in[0], in[1]);
    out[0] = {in[1][0], in[0][1], output_size[0], output_size[1]};
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      auto const a = align_arguments<decltype(tag)>(in, out, sampling_ratio, aligned);
      return launch_roi_align(a, tactic == kDirect, current_device().multiprocessors, stream);
    });
  }
};

Register<RoiAlign> const roi_align;

}  // namespace
}  // namespace bridge
