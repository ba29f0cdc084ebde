#include "kernels/detection/ps_roi_pool.cuh"
#include "ops/detection/regions.h"

namespace bridge {
namespace {

struct PsRoiPool final : RegionsOp {
  static constexpr char const* name = "ps_roi_pool";

  void shapes(Shape const* in, Shape* out) const override {
    check(name, in[0], in[1]);
    out[0] = {in[1][0], channels_of_bins(name, in[0]), output_size[0], output_size[1]};
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(
        in[0].dtype, [&](auto tag) { return launch_ps_roi_pool(pool_arguments<decltype(tag)>(in, out), stream); });
  }
};

Register<PsRoiPool> const ps_roi_pool;

}  // namespace
}  // namespace bridge
