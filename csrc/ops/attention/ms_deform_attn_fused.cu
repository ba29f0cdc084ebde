#include "core/dispatch.h"
#include "kernels/attention/ms_deform_attn_fused.cuh"
#include "ops/attention/ms_deform_attn.h"

namespace bridge {
namespace {

struct MsDeformAttnFused final : MsDeformAttnOp {
  static constexpr char const* name = "ms_deform_attn_fused";
  static std::vector<Param> inputs() {
    std::vector<Param> params = ms_deform_attn_inputs();
    params.push_back({"reference_points", kLikeFirst | kFloat32});  // [batch, queries, levels, 2 or 4]
    params.push_back({"sampling_offsets", kLikeFirst | kFloat32});  // [batch, queries, heads, levels, points, 2]
    params.push_back({"attention_logits", kLikeFirst | kFloat32});  // [batch, queries, heads, levels, points]
    return params;
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // [batch, queries, heads * head_dim]
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &references = in[3], &offsets = in[4], &logits = in[5];
    out[0] = check_shapes(name, in, "attention_logits", logits);
    require_shape(name, "sampling_offsets", offsets, {logits[0], logits[1], logits[2], logits[3], logits[4], 2});
    bool const boxes = references.rank == 4 && may_equal(references[3], 4);
    require_shape(name, "reference_points", references, {logits[0], logits[1], logits[3], boxes ? 4 : 2});
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      auto is_float = [&](int i) { return in[i].dtype == DType::kFloat32; };
      MsDeformAttnOffsets<T> const offsets{in[3].data,  in[4].data,  in[5].data,   is_float(3),
                                           is_float(4), is_float(5), in[3][3] == 4};
      return launch_ms_deform_attn_fused(arguments<T>(in, in[5], out[0]), offsets, tactic != kExact,
                                         current_device().multiprocessors, stream);
    });
  }
};

Register<MsDeformAttnFused> const ms_deform_attn_fused;

}  // namespace
}  // namespace bridge
