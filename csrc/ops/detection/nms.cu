#include <cmath>

#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/detection/nms.cuh"

namespace bridge {
namespace {

struct Nms final : Op {
  static constexpr char const* name = "nms";
  static std::vector<Param> inputs() {
    return {{"boxes", kFloating},    // [boxes, 4]
            {"scores", kFloating}};  // [boxes]
  }
  static std::vector<Param> outputs() {
    return {counted({"kept", in_set(DType::kInt64)})};  // [boxes at most]
  }

  double iou_threshold = 0.5;

  std::vector<Attribute> attributes() override { return {{"iou_threshold", &iou_threshold}}; }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &boxes = in[0], &scores = in[1];
    require(!std::isnan(iou_threshold), "nms: iou_threshold is nan, expected a number");
    require(boxes.rank == 2 && may_equal(boxes[1], 4), "nms: boxes has shape ", boxes, ", expected [boxes, 4]");
    require(scores.rank == 1 && may_equal(scores[0], boxes[0]), "nms: scores has shape ", scores, ", expected [",
            boxes[0], "]");
    require(!boxes[0].known() || boxes[0].value() <= kNmsMostBoxes, "nms: there are ", boxes[0],
            " boxes, expected at most ", kNmsMostBoxes);
    out[0] = {boxes[0]};
  }

  size_t workspace(Tensor const* in, Tensor const*) const override { return NmsScratch::bytes(in[0][0]); }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto box) {
      return dispatch_floating(in[1].dtype, [&](auto score) {
        NmsArguments<decltype(box), decltype(score)> a{};
        a.boxes = static_cast<decltype(box) const*>(in[0].data);
        a.scores = static_cast<decltype(score) const*>(in[1].data);
        a.kept = static_cast<int64_t*>(out[0].data), a.num_kept = static_cast<int64_t*>(out[1].data);
        a.count = to_int(in[0][0]), a.threshold = nms_threshold(iou_threshold);
        return launch_nms(a, workspace, stream);
      });
    });
  }
};

Register<Nms> const nms;

}  // namespace
}  // namespace bridge
