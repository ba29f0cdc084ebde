#include <algorithm>
#include <cmath>

#include "core/device.h"
#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/window_attention/window_attention.cuh"

namespace bridge {
namespace {

struct WindowAttention final : Op {
  static constexpr char const* name = "window_attention";
  static std::vector<Param> inputs() {
    return {or_strided({"q", kFloating}),            // [batch, heads, queries, head_dim], or by `layout`
            or_strided({"k", kLikeFirst}),           // [batch, groups, keys, head_dim], likewise
            or_strided({"v", kLikeFirst}),           // as k
            {"sinks", kLikeFirst | kFloat32, true},  // [heads]
            {"key_ranges", kIndex, true}};           // [batch or 1, queries or 1, 2]
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // as q
  }

  int64_t window_left = kNoWindow, window_right = 0;
  double scale = 0.0, softcap = 0.0;
  std::string layout = "bhsd";

  std::vector<Attribute> attributes() override {
    return {{"window_left", &window_left},
            {"window_right", &window_right},
            {"scale", &scale},
            {"softcap", &softcap},
            {"layout", &layout}};
  }

  int head_axis() const { return layout == "bhsd" ? 1 : 2; }
  int seq_axis() const { return 3 - head_axis(); }

  void shapes(Shape const* in, Shape* out) const override {
    check_attributes();
    check_heads(in[0], in[1], in[2]);
    Dim const heads = in[0][head_axis()];
    if (in[3].present()) {
      require(in[3].rank == 1 && may_equal(in[3][0], heads), name, ": sinks has shape ", in[3], ", expected [", heads,
              "], one a head of q");
    }
    if (in[4].present()) check_ranges(in[4], in[0][0], in[0][seq_axis()]);
    out[0] = in[0];
  }

  size_t workspace(Tensor const* in, Tensor const*) const override {
    Tensor const& q = in[0];
    if (q.dtype == DType::kFloat32) return 0;
    return window_attention_workspace(Size(q[0]) * q[1] * q[2], q[3]).bytes();
  }

  // Of compute capability 9.0, for 16-bit types: the kernel of every GPU, or 9.0's own.
  enum Tactic { kMma = 0, kWgmma = 1 };

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    bool const both = in[0].dtype != DType::kFloat32 && current_device().capability == 90;
    return both ? std::vector<int>{kMma, kWgmma} : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override {
    return tactics(in, out).empty() ? -1 : best_tactic(in[0][3]);
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      int const chosen = tactic == kMma || tactic == kWgmma ? tactic : best_tactic(in[0][3]);
      auto const way = chosen == kWgmma ? WindowAttentionWay::kWgmma : WindowAttentionWay::kMma;
      return launch_window_attention(arguments<T>(in, out[0]), way, current_device(), workspace, stream);
    });
  }

 private:
  // As measured on an H200: a block of wgmma's has begun and ended by the time that it has seen few keys of few
  // channels.
  Tactic best_tactic(int64_t head_dim) const {
    constexpr int64_t kFew = 192;
    bool const limited = window_left != kNoWindow && window_right != kNoWindow;
    bool const narrow = limited && std::max(window_left, window_right) < kFew && window_left + window_right < kFew;
    return narrow && head_dim <= 64 ? kMma : kWgmma;
  }

  void check_attributes() const {
    require(layout == "bhsd" || layout == "bshd", name, ": layout is \"", layout, "\", expected \"bhsd\" or \"bshd\"");
    auto check_window = [](char const* side, int64_t window) {
      require(window >= kNoWindow, name, ": ", side, " is ", window, ", expected a number of keys, or -1 for all");
    };
    check_window("window_left", window_left), check_window("window_right", window_right);
    require(std::isfinite(scale), name, ": scale is ", scale, ", expected a finite number (0 for 1 / sqrt(D))");
    require(std::isfinite(softcap) && softcap >= 0, name, ": softcap is ", softcap,
            ", expected a finite number above 0, or 0 for none");
  }

  void check_heads(Shape const& q, Shape const& k, Shape const& v) const {
    require(q.rank == 4 && k.rank == 4 && v.rank == 4, name, ": q, k and v must have 4 dimensions, got ", q, ", ", k,
            ", ", v);
    for (int axis = 0; axis < 4; ++axis)
      require(may_equal(k[axis], v[axis]), name, ": k and v differ in shape: ", k, " and ", v);
    require(may_equal(q[0], k[0]) && may_equal(q[3], k[3]), name, ": q and k differ in batch or head_dim: ", q, " and ",
            k);
    bool const too_wide = q[3].known() && may_exceed(q[3], kWindowAttentionMaxHeadDim);
    require(may_exceed(q[3], 0) && !too_wide, name, ": head_dim is ", q[3], ", expected 1 to ",
            kWindowAttentionMaxHeadDim);
    Dim const heads = q[head_axis()], groups = k[head_axis()];
    require(may_divide(groups, heads), name, ": q has ", heads, " heads, expected a multiple of the ", groups, " of k");
  }

  void check_ranges(Shape const& ranges, Dim batch, Dim queries) const {
    bool const fits = ranges.rank == 3 && (may_equal(ranges[0], batch) || may_equal(ranges[0], 1)) &&
                      (may_equal(ranges[1], queries) || may_equal(ranges[1], 1)) && may_equal(ranges[2], 2);
    require(fits, name, ": key_ranges has shape ", ranges, ", expected [", batch, " or 1, ", queries, " or 1, 2]");
  }

  template <class T>
  AttentionTensor<T> tensor(Tensor const& given) const {
    return {static_cast<T*>(given.data), {given.stride(0), given.stride(head_axis()), given.stride(seq_axis())}};
  }

  template <class T>
  WindowAttentionArguments<T> arguments(Tensor const* in, Tensor const& out) const {
    Tensor const &q = in[0], &k = in[1], &sinks = in[3], &ranges = in[4];
    WindowAttentionArguments<T> a{};
    a.q = tensor<T const>(q), a.k = tensor<T const>(k), a.v = tensor<T const>(in[2]), a.out = tensor<T>(out);
    a.sinks = sinks.data, a.float_sinks = sinks.dtype == DType::kFloat32;
    a.key_ranges = ranges.data, a.wide_ranges = ranges.dtype == DType::kInt64;
    if (ranges.present()) {
      a.range_query_step = ranges[1] > 1;
      a.range_batch_step = ranges[0] > 1 ? ranges[1] : 0;
    }
    a.batch = to_int(q[0]), a.heads = to_int(q[head_axis()]), a.queries = to_int(q[seq_axis()]);
    a.groups = to_int(k[head_axis()]), a.keys = to_int(k[seq_axis()]), a.head_dim = to_int(q[3]);
    // Kernels count rows of a group, and keys, up to the end of a tile.
    to_int((Size(a.queries) * a.ratio() + kMostTileExtent).value()), to_int((Size(a.keys) + kMostTileExtent).value());
    a.window_left = window(window_left), a.window_right = window(window_right);
    a.scale = static_cast<float>(scale != 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(a.head_dim)));
    a.softcap = static_cast<float>(softcap);
    return a;
  }

  // Positions differ by less than 2^32; a window of 2^31 - 1 and more hides nothing that a tensor can hold.
  static int window(int64_t keys) { return static_cast<int>(std::min<int64_t>(keys, INT32_MAX)); }
};

Register<WindowAttention> const window_attention;

}  // namespace
}  // namespace bridge
