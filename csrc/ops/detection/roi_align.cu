#include <cmath>
#include <limits>

#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/detection/roi_align.cuh"

namespace bridge {
namespace {

struct RoiAlign final : Op {
  static constexpr char const* name = "roi_align";
  static constexpr int kDirect = 0;  // a tactic, for tests; 1 or none: the kernel of the layout
  static std::vector<Param> inputs() {
    return {or_channels_last({"x", kFloating}),  // [batch, channels, height, width]
            {"rois", kFloating}};                // [rois, 5]
  }
  static std::vector<Param> outputs() {
    return {{"y", kLikeFirst}};  // [rois, channels, *output_size]
  }

  Pair output_size{7, 7};
  double spatial_scale = 1.0;
  int64_t sampling_ratio = -1;
  bool aligned = false;

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size},
            {"spatial_scale", &spatial_scale},
            {"sampling_ratio", &sampling_ratio},
            {"aligned", &aligned}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &x = in[0], &rois = in[1];
    constexpr int64_t kMost = 1 << 12;
    for (int64_t extent : output_size) {
      require(extent >= 1 && extent <= kMost, "roi_align: output_size is ", output_size[0], " x ", output_size[1],
              ", expected 1 to ", kMost);
    }
    require(std::abs(spatial_scale) <= std::numeric_limits<float>::max(), "roi_align: spatial_scale is ", spatial_scale,
            ", expected a finite number of float32");
    require(sampling_ratio <= kMost, "roi_align: sampling_ratio is ", sampling_ratio, ", expected at most ", kMost);
    require(x.rank == 4, "roi_align: x must have 4 dimensions, got shape ", x);
    require(rois.rank == 2 && may_equal(rois[1], 5), "roi_align: rois has shape ", rois, ", expected [rois, 5]");
    constexpr int64_t kTooMany = int64_t(1) << 31;
    require(!x[0].known() || x[0].value() < kTooMany, "roi_align: x has ", x[0], " images, 2^31 or more");
    require(!x[1].known() || x[1].value() < kTooMany, "roi_align: x has ", x[1], " channels, 2^31 or more");
    Dim const plane = x[2] * x[3];
    require(may_exceed(plane, 0) && (!plane.known() || plane.value() < kTooMany), "roi_align: the feature map of ",
            x[2], " x ", x[3], " has no pixel, or 2^31 or more");
    out[0] = {rois[0], x[1], output_size[0], output_size[1]};
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      Tensor const &x = in[0], &rois = in[1];
      RoiAlignArguments<T> a{};
      a.x = static_cast<T const*>(x.data), a.rois = rois.data, a.y = static_cast<T*>(out[0].data);
      a.roi_dtype = rois.dtype;
      a.batch = x[0], a.channels = to_int(x[1]), a.count = rois[0];
      a.height = to_int(x[2]), a.width = to_int(x[3]);
      a.pooled_h = to_int(output_size[0]), a.pooled_w = to_int(output_size[1]);
      a.sampling_ratio = to_int(std::max<int64_t>(sampling_ratio, 0));
      a.spatial_scale = static_cast<float>(spatial_scale), a.aligned = aligned;
      a.channels_last = x.layout == Layout::kChannelsLast;
      return launch_roi_align(a, tactic == kDirect, stream);
    });
  }
};

Register<RoiAlign> const roi_align;

}  // namespace
}  // namespace bridge
