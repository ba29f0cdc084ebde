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
