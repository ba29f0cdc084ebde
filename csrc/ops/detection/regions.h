// What the ops over regions of interest share: their inputs, their attributes, and checks of both.
#pragma once

#include <cmath>
#include <limits>

#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/detection/roi_windows.cuh"

namespace bridge {

struct RegionsOp : Op {
  static std::vector<Param> inputs() {
    return {{"x", kFloating},      // [batch, channels, height, width]
            {"rois", kFloating}};  // [rois, 5]
  }
  static std::vector<Param> outputs() {
    return {{"y", kLikeFirst}};  // [rois, channels of the result, *output_size]
  }

  Pair output_size{7, 7};
  double spatial_scale = 1.0;

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size}, {"spatial_scale", &spatial_scale}};
  }

 protected:
  static constexpr int64_t kMost = 1 << 12;  // of output_size and of samples along an axis

  static void check_samples(char const* op, int64_t sampling_ratio) {
    require(sampling_ratio <= kMost, op, ": sampling_ratio is ", sampling_ratio, ", expected at most ", kMost);
  }

  void check(char const* op, Shape const& x, Shape const& rois) const {
    for (int64_t extent : output_size) {
      require(extent >= 1 && extent <= kMost, op, ": output_size is ", output_size[0], " x ", output_size[1],
              ", expected 1 to ", kMost);
    }
    require(std::abs(spatial_scale) <= std::numeric_limits<float>::max(), op, ": spatial_scale is ", spatial_scale,
            ", expected a finite number of float32");
    require(x.rank == 4, op, ": x must have 4 dimensions, got shape ", x);
    require(rois.rank == 2 && may_equal(rois[1], 5), op, ": rois has shape ", rois, ", expected [rois, 5]");
    constexpr int64_t kTooMany = int64_t(1) << 31;
    require(!x[0].known() || x[0].value() < kTooMany, op, ": x has ", x[0], " images, 2^31 or more");
    require(!x[1].known() || x[1].value() < kTooMany, op, ": x has ", x[1], " channels, 2^31 or more");
    Dim const plane = x[2] * x[3];
    require(may_exceed(plane, 0) && (!plane.known() || plane.value() < kTooMany), op, ": the feature map of ", x[2],
            " x ", x[3], " has no pixel, or 2^31 or more");
  }

  // Those of a result that takes a channel of x for each bin.
  Dim channels_of_bins(char const* op, Shape const& x) const {
    int64_t const bins = output_size[0] * output_size[1];
    require(may_divide(bins, x[1]), op, ": x has ", x[1], " channels, expected a multiple of the ", output_size[0],
            " x ", output_size[1], " bins");
    return floor_div(x[1], bins);
  }

  template <class T>
  RoiPoolArguments<T> pool_arguments(Tensor const* in, Tensor const* out) const {
    RoiPoolArguments<T> a{};
    fill(a, in, out);
    a.channels_out = to_int(out[0][1]);
    return a;
  }

  template <class T>
  RoiAlignArguments<T> align_arguments(Tensor const* in, Tensor const* out, int64_t sampling_ratio,
                                       bool aligned) const {
    RoiAlignArguments<T> a{};
    fill(a, in, out);
    a.sampling_ratio = to_int(std::max<int64_t>(sampling_ratio, 0)), a.aligned = aligned;
    a.channels_last = in[0].layout == Layout::kChannelsLast;
    return a;
  }

 private:
  template <template <class> class Arguments, class T>
  void fill(Arguments<T>& a, Tensor const* in, Tensor const* out) const {
    Tensor const &x = in[0], &rois = in[1];
    a.x = static_cast<T const*>(x.data), a.rois = rois.data, a.y = static_cast<T*>(out[0].data);
    a.roi_dtype = rois.dtype;
    a.batch = x[0], a.channels = to_int(x[1]), a.count = rois[0];
    a.height = to_int(x[2]), a.width = to_int(x[3]);
    a.pooled_h = to_int(output_size[0]), a.pooled_w = to_int(output_size[1]);
    a.spatial_scale = static_cast<float>(spatial_scale);
  }
};

}  // namespace bridge
