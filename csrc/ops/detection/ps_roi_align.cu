#include "kernels/detection/ps_roi_align.cuh"
#include "ops/detection/regions.h"

namespace bridge {
namespace {

struct PsRoiAlign final : RegionsOp {
  static constexpr char const* name = "ps_roi_align";

  int64_t sampling_ratio = -1;

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size}, {"spatial_scale", &spatial_scale}, {"sampling_ratio", &sampling_ratio}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_samples(name, sampling_ratio);
    check(name, in[0], in[1]);
    out[0] = {in[1][0], channels_of_bins(name, in[0]), output_size[0], output_size[1]};
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      return launch_ps_roi_align(align_arguments<decltype(tag)>(in, out, sampling_ratio, true), stream);
    });
  }
};

Register<PsRoiAlign> const ps_roi_align;

}  // namespace
}  // namespace bridge
