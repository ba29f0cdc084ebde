#include <algorithm>

#include "core/device.h"
#include "core/dispatch.h"
#include "kernels/window_attention/window_attention.cuh"
#include "ops/attention/window_attention_op.h"

namespace bridge {
namespace {

struct WindowAttention final : WindowOp {
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

  void shapes(Shape const* in, Shape* out) const override {
    check_window_and_logits(name);
    check_heads(name, in[0], in[1], in[2]);
    if (in[3].present()) check_sinks(name, in[3], in[0]);
    if (in[4].present()) check_ranges(name, in[4], in[0][0], in[0][seq_axis()]);
    out[0] = in[0];
  }

  size_t workspace(Tensor const* in, Tensor const*) const override { return split_workspace(in[0]); }

  // Of compute capability 9.0, for 16-bit types: the kernel of every GPU, or 9.0's own, of which some heads have a
  // second one.
  enum Tactic { kMma = 0, kWgmma = 1, kWgmmaNarrow = 2 };

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    if (in[0].dtype == DType::kFloat32 || current_device().capability != 90) return {};
    return has_narrow(in[0]) ? std::vector<int>{kMma, kWgmma, kWgmmaNarrow} : std::vector<int>{kMma, kWgmma};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override {
    return tactics(in, out).empty() ? -1 : best_tactic(in);
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      int const chosen = tactic >= kMma && tactic <= kWgmmaNarrow ? tactic : best_tactic(in);
      auto const way = static_cast<WindowAttentionWay>(chosen);
      return launch_window_attention(arguments<T>(in, out[0]), way, current_device(), workspace, stream);
    });
  }

 private:
  static bool has_narrow(Tensor const& q) { return q[3] > 96 && q[3] <= 128; }

  // As measured on an H200 on 2026-11-30: of 16384 queries, the kernel for narrow windows took 0.98 of the other one's
  // time where they had 128 keys, and 1.02 where 1024.
  Tactic best_tactic(Tensor const* in) const {
    constexpr int64_t kNarrow = 192, kManyRows = 4 * kLargeGpu * 192;
    Tensor const& q = in[0];
    int64_t const rows = q[0] * q[1] * q[2], keys = in[1][seq_axis()];
    bool const limited = window_left != kNoWindow && window_right != kNoWindow;
    bool const narrow = keys <= kNarrow || (limited && std::max(window_left, window_right) < kNarrow &&
                                            window_left + window_right < kNarrow);
    return has_narrow(q) && narrow && rows >= kManyRows ? kWgmmaNarrow : kWgmma;
  }

  template <class T>
  WindowAttentionArguments<T> arguments(Tensor const* in, Tensor const& out) const {
    WindowAttentionArguments<T> a{};
    fill(a, in, out);
    fill_ranges(a, in[4]);
    fill_sinks(a, in[3]);
    fill_window(a);
    return a;
  }
};

Register<WindowAttention> const window_attention;

}  // namespace
}  // namespace bridge
