// What the two ops of multi-scale deformable attention share: checks, and how their kernels are called.
#pragma once

#include "core/device.h"
#include "core/op.h"
#include "kernels/attention/ms_deform_attn_gather.cuh"

namespace bridge {

// Both ops' first three inputs and their result.
inline std::vector<Param> ms_deform_attn_inputs() {
  return {{"value", kFloating},            // [batch, positions, heads, head_dim]
          {"spatial_shapes", kIndex},      // [levels, 2]
          {"level_start_index", kIndex}};  // [levels]
}

struct MsDeformAttnOp : Op {
  // 16-bit dtypes: samples interpolated in float32, or in the dtype, two channels at a time. The latter unless asked.
  enum Tactic { kExact = 0, kPacked = 1 };

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    bool const packs = in[0].dtype != DType::kFloat32 && in[0][3] % (kAccessBytes / 2) == 0;
    return packs ? std::vector<int>{kExact, kPacked} : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override { return tactics(in, out).empty() ? -1 : kPacked; }

 protected:
  template <class... Values>
  static void check(char const* op, bool condition, Values const&... values) {
    require(condition, op, ": ", values...);
  }

  // value, its levels and the points: [batch, queries, heads, levels, points], of the tensor called `name`.
  static Shape check_shapes(char const* op, Shape const* in, char const* name, Shape const& points) {
    Shape const &value = in[0], &shapes = in[1], &starts = in[2];
    check(op, value.rank == 4, "value has shape ", value, ", expected [batch, positions, heads, head_dim]");
    check(op, points.rank == 5, name, " has shape ", points, ", expected [batch, queries, heads, levels, points]");
    Dim const batch = value[0], heads = value[2], levels = points[3];
    require_shape(op, name, points, {batch, points[1], heads, levels, points[4]});
    require_shape(op, "spatial_shapes", shapes, {levels, 2});
    require_shape(op, "level_start_index", starts, {levels});
    Dim const samples = levels * points[4], channels = heads * value[3];
    check(op, may_exceed(samples, 0) && !surely_exceeds(samples, kMsDeformAttnMaxSamples), "there are ", levels,
          " levels of ", points[4], " points, expected 1 to ", kMsDeformAttnMaxSamples, " in all");
    check_count(op, batch, "images"), check_count(op, value[1], "positions"), check_count(op, points[1], "queries");
    check(op, !surely_exceeds(channels, kMostChannels), "value has ", channels,
          " channels (heads * head_dim), expected at most ", kMostChannels);
    Dim const elements = value[1] * channels;
    check(op, !surely_exceeds(elements, INT32_MAX), "value has ", elements,
          " elements an image, expected fewer than 2^31");
    return {batch, points[1], channels};
  }

  template <class T>
  static MsDeformAttnArguments<T> arguments(Tensor const* in, Tensor const& points, Tensor const& out) {
    Tensor const& value = in[0];
    MsDeformAttnArguments<T> a{};
    a.value = static_cast<T const*>(value.data), a.out = static_cast<T*>(out.data);
    a.spatial_shapes = in[1].data, a.wide_shapes = in[1].dtype == DType::kInt64;
    a.level_start_index = in[2].data, a.wide_starts = in[2].dtype == DType::kInt64;
    a.batch = to_int(value[0]), a.queries = to_int(points[1]), a.positions = to_int(value[1]);
    a.heads = to_int(value[2]), a.head_dim = to_int(value[3]);
    a.levels = to_int(points[3]), a.points = to_int(points[4]);
    return a;
  }

 private:
  static constexpr int64_t kMostChannels = 1 << 28;

  static bool surely_exceeds(Dim a, int64_t most) { return a.known() && a.value() > most; }
  static void check_count(char const* op, Dim count, char const* what) {
    check(op, !surely_exceeds(count, INT32_MAX), "there are ", count, " ", what, ", expected fewer than 2^31");
  }
};

}  // namespace bridge
