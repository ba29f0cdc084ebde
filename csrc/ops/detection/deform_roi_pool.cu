#include "core/device.h"
#include "kernels/detection/deform_roi_pool.cuh"
#include "ops/detection/regions.h"

namespace bridge {
namespace {

struct DeformRoiPool final : RegionsOp {
  static constexpr char const* name = "deform_roi_pool";
  static std::vector<Param> inputs() {
    return {or_channels_last({"x", kFloating}),  // [batch, channels, height, width]
            {"rois", kFloating},                 // [rois, 5]
            {"offset", kFloating, true}};        // [rois, 2, *output_size]
  }

  int64_t sampling_ratio = 0;
  double gamma = 0.1;

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size},
            {"spatial_scale", &spatial_scale},
            {"sampling_ratio", &sampling_ratio},
            {"gamma", &gamma}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_samples(name, sampling_ratio);
    check(name, in[0], in[1]);
    require(std::isfinite(gamma), name, ": gamma is ", gamma, ", expected a finite number");
    if (in[2].present()) require_shape(name, "offset", in[2], {in[1][0], 2, output_size[0], output_size[1]});
    out[0] = {in[1][0], in[0][1], output_size[0], output_size[1]};
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      DeformRoiPoolArguments<T> a{};
      static_cast<RoiAlignArguments<T>&>(a) = align_arguments<T>(in, out, sampling_ratio, true);
      a.offset = in[2].present() ? in[2].data : nullptr, a.offset_dtype = in[2].dtype;
      a.gamma = static_cast<float>(gamma);
      to_int((Size(a.bins()) * ceil_div(Size(a.channels), kDeformRoiChannels)).value());  // items of a region
      return launch_deform_roi_pool(a, current_device().multiprocessors, stream);
    });
  }
};

Register<DeformRoiPool> const deform_roi_pool;

}  // namespace
}  // namespace bridge
