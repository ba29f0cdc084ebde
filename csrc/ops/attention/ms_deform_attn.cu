#include "core/dispatch.h"
#include "kernels/attention/ms_deform_attn.cuh"
#include "ops/attention/ms_deform_attn.h"

namespace bridge {
namespace {

struct MsDeformAttn final : MsDeformAttnOp {
  static constexpr char const* name = "ms_deform_attn";
  static std::vector<Param> inputs() {
    std::vector<Param> params = ms_deform_attn_inputs();
    params.push_back({"sampling_locations", kLikeFirst | kFloat32});  // [batch, queries, heads, levels, points, 2]
    params.push_back({"attention_weights", kLikeFirst | kFloat32});   // [batch, queries, heads, levels, points]
    return params;
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // [batch, queries, heads * head_dim]
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &locations = in[3], &weights = in[4];
    out[0] = check_shapes(name, in, "attention_weights", weights);
    require_shape(name, "sampling_locations", locations,
                  {weights[0], weights[1], weights[2], weights[3], weights[4], 2});
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      MsDeformAttnLocations<T> const locations{in[3].data, in[4].data, in[3].dtype == DType::kFloat32,
                                               in[4].dtype == DType::kFloat32};
      return launch_ms_deform_attn(arguments<T>(in, in[4], out[0]), locations, tactic != kExact,
                                   current_device().multiprocessors, stream);
    });
  }
};

Register<MsDeformAttn> const ms_deform_attn;

}  // namespace
}  // namespace bridge
