// What ops of attention have in common: queries, keys and values by heads, and what is done to logits.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/op.h"
#include "kernels/window_attention/plan.cuh"

namespace bridge {

// Inputs 0 to 2 are q, k and v.
struct AttentionOp : Op {
  double scale = 0.0, softcap = 0.0;
  std::string layout = "bhsd";

  int head_axis() const { return layout == "bhsd" ? 1 : 2; }
  int seq_axis() const { return 3 - head_axis(); }

  // Of a kernel that splits keys.
  static size_t split_workspace(Tensor const& q) {
    return window_attention_workspace(Size(q[0]) * q[1] * q[2], q[3]).bytes();
  }

 protected:
  void check_logits(char const* name) const {
    require(layout == "bhsd" || layout == "bshd", name, ": layout is \"", layout, "\", expected \"bhsd\" or \"bshd\"");
    require(std::isfinite(scale), name, ": scale is ", scale, ", expected a finite number (0 for 1 / sqrt(D))");
    require(std::isfinite(softcap) && softcap >= 0, name, ": softcap is ", softcap,
            ", expected a finite number above 0, or 0 for none");
  }

  void check_sinks(char const* name, Shape const& sinks, Shape const& q) const {
    Dim const heads = q[head_axis()];
    require(sinks.rank == 1 && may_equal(sinks[0], heads), name, ": sinks has shape ", sinks, ", expected [", heads,
            "], one a head of q");
  }

  static void check_head_dim(char const* name, Dim head_dim) {
    bool const too_wide = head_dim.known() && may_exceed(head_dim, kWindowAttentionMaxHeadDim);
    require(may_exceed(head_dim, 0) && !too_wide, name, ": head_dim is ", head_dim, ", expected 1 to ",
            kWindowAttentionMaxHeadDim);
  }

  void check_heads(char const* name, Shape const& q, Shape const& k, Shape const& v) const {
    require(q.rank == 4 && k.rank == 4 && v.rank == 4, name, ": q, k and v must have 4 dimensions, got ", q, ", ", k,
            ", ", v);
    for (int axis = 0; axis < 4; ++axis)
      require(may_equal(k[axis], v[axis]), name, ": k and v differ in shape: ", k, " and ", v);
    require(may_equal(q[0], k[0]) && may_equal(q[3], k[3]), name, ": q and k differ in batch or head_dim: ", q, " and ",
            k);
    check_head_dim(name, q[3]);
    Dim const heads = q[head_axis()], groups = k[head_axis()];
    require(may_divide(groups, heads), name, ": q has ", heads, " heads, expected a multiple of the ", groups, " of k");
  }

  void check_ranges(char const* name, Shape const& ranges, Dim batch, Dim queries) const {
    bool const fits = ranges.rank == 3 && (may_equal(ranges[0], batch) || may_equal(ranges[0], 1)) &&
                      (may_equal(ranges[1], queries) || may_equal(ranges[1], 1)) && may_equal(ranges[2], 2);
    require(fits, name, ": key_ranges has shape ", ranges, ", expected [", batch, " or 1, ", queries, " or 1, 2]");
  }

  // What both kinds of arguments say; without sinks, ranges and a window.
  template <class T>
  void fill(WindowAttentionArguments<T>& a, Tensor const* in, Tensor const& out) const {
    Tensor const& k = in[1];
    a.k = tensor<T const>(k), a.v = tensor<T const>(in[2]);
    a.groups = to_int(k[head_axis()]), a.keys = to_int(k[seq_axis()]);
    fill_queries(a, in[0], out);
  }

  // All but k, v, groups and keys, of which the last two are there.
  template <class T>
  void fill_queries(WindowAttentionArguments<T>& a, Tensor const& q, Tensor const& out) const {
    a.q = tensor<T const>(q), a.out = tensor<T>(out);
    a.batch = to_int(q[0]), a.heads = to_int(q[head_axis()]), a.queries = to_int(q[seq_axis()]);
    a.head_dim = to_int(q[3]);
    // Kernels count rows of a group, and keys, up to the end of a tile.
    to_int((Size(a.queries) * a.ratio() + kMostTileExtent).value()), to_int((Size(a.keys) + kMostTileExtent).value());
    a.window_left = a.window_right = kNoWindow;
    a.scale = static_cast<float>(scale != 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(a.head_dim)));
    a.softcap = static_cast<float>(softcap);
  }

  template <class T>
  static void fill_sinks(WindowAttentionArguments<T>& a, Tensor const& sinks) {
    a.sinks = sinks.data, a.float_sinks = sinks.dtype == DType::kFloat32;
  }

  template <class T>
  static void fill_ranges(WindowAttentionArguments<T>& a, Tensor const& ranges) {
    a.key_ranges = ranges.data, a.wide_ranges = ranges.dtype == DType::kInt64;
    if (!ranges.present()) return;
    a.range_query_step = ranges[1] > 1;
    a.range_batch_step = ranges[0] > 1 ? ranges[1] : 0;
  }

 private:
  template <class T>
  AttentionTensor<T> tensor(Tensor const& given) const {
    return {static_cast<T*>(given.data), {given.stride(0), given.stride(head_axis()), given.stride(seq_axis())}};
  }
};

// With a window around each query.
struct WindowOp : AttentionOp {
  int64_t window_left = kNoWindow, window_right = 0;

  std::vector<Attribute> attributes() override {
    return {{"window_left", &window_left},
            {"window_right", &window_right},
            {"scale", &scale},
            {"softcap", &softcap},
            {"layout", &layout}};
  }

 protected:
  void check_window_and_logits(char const* name) const {
    check_window(name, "window_left", window_left), check_window(name, "window_right", window_right);
    check_logits(name);
  }

  template <class T>
  void fill_window(WindowAttentionArguments<T>& a) const {
    a.window_left = window(window_left), a.window_right = window(window_right);
  }

 private:
  static void check_window(char const* name, char const* side, int64_t keys) {
    require(keys >= kNoWindow, name, ": ", side, " is ", keys, ", expected a number of keys, or -1 for all");
  }
  // Positions differ by less than 2^32; a window of 2^31 - 1 and more hides nothing that a tensor can hold.
  static int window(int64_t keys) { return static_cast<int>(std::min<int64_t>(keys, INT32_MAX)); }
};

}  // namespace bridge
