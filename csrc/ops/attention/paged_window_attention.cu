#include "core/device.h"
#include "core/dispatch.h"
#include "kernels/paged_window_attention/paged_window_attention.cuh"
#include "ops/attention/window_attention_op.h"

namespace bridge {
namespace {

struct PagedWindowAttention final : WindowOp {
  static constexpr char const* name = "paged_window_attention";
  static std::vector<Param> inputs() {
    return {or_strided({"q", kFloating}),            // [batch, heads, queries, head_dim], or by `layout`
            or_strided({"k_cache", kLikeFirst}),     // [pages, page_size, groups, head_dim]
            or_strided({"v_cache", kLikeFirst}),     // as k_cache
            {"block_table", kIndex},                 // [batch, pages of a sequence at most]
            {"lengths", kIndex},                     // [batch]
            {"sinks", kLikeFirst | kFloat32, true},  // [heads]
            {"key_ranges", kIndex, true}};           // [batch or 1, queries or 1, 2]
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // as q
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_window_and_logits(name);
    check_caches(in[0], in[1], in[2]);
    Dim const batch = in[0][0];
    require(in[3].rank == 2 && may_equal(in[3][0], batch), name, ": block_table has shape ", in[3], ", expected [",
            batch, ", pages of a sequence]");
    require(in[4].rank == 1 && may_equal(in[4][0], batch), name, ": lengths has shape ", in[4], ", expected [", batch,
            "], one a sequence");
    if (in[5].present()) check_sinks(name, in[5], in[0]);
    if (in[6].present()) check_ranges(name, in[6], batch, in[0][seq_axis()]);
    out[0] = in[0];
  }

  size_t workspace(Tensor const* in, Tensor const*) const override {
    Tensor const& q = in[0];
    return window_attention_workspace(Size(q[0]) * q[1] * q[2], q[3]).bytes();
  }

  // Of compute capability 9.0, for 16-bit types: the kernel of every GPU, or 9.0's own.
  enum Tactic { kMma = 0, kWgmma = 1 };

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    bool const both = in[0].dtype != DType::kFloat32 && current_device().capability == 90;
    return both ? std::vector<int>{kMma, kWgmma} : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override {
    return tactics(in, out).empty() ? -1 : static_cast<int>(kWgmma);
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      auto const way = tactic == kMma ? PagedWay::kMma : PagedWay::kWgmma;
      return launch_paged_window_attention(arguments<T>(in, out[0]), way, current_device(), workspace, stream);
    });
  }

 private:
  void check_caches(Shape const& q, Shape const& k, Shape const& v) const {
    require(q.rank == 4 && k.rank == 4 && v.rank == 4, name, ": q, k_cache and v_cache must have 4 dimensions, got ", q,
            ", ", k, ", ", v);
    for (int axis = 0; axis < 4; ++axis)
      require(may_equal(k[axis], v[axis]), name, ": k_cache and v_cache differ in shape: ", k, " and ", v);
    require(may_equal(q[3], k[3]), name, ": q and k_cache differ in head_dim: ", q, " and ", k);
    check_head_dim(name, q[3]);
    require(may_exceed(k[1], 0), name, ": k_cache has shape ", k, ", expected pages of at least 1 key in dimension 1");
    Dim const heads = q[head_axis()];
    require(may_divide(k[2], heads), name, ": q has ", heads, " heads, expected a multiple of the ", k[2],
            " of k_cache");
  }

  template <class T>
  PagedArguments<T> arguments(Tensor const* in, Tensor const& out) const {
    Tensor const &k = in[1], &table = in[3], &lengths = in[4];
    PagedArguments<T> a{};
    a.k = cache<T>(k), a.v = cache<T>(in[2]);
    a.pages = to_int(k[0]), a.page_size = to_int(k[1]), a.table_width = to_int(table[1]);
    a.groups = to_int(k[2]), a.keys = to_int((Size(a.table_width) * a.page_size).value());
    fill_queries(a, in[0], out);
    fill_sinks(a, in[5]);
    fill_ranges(a, in[6]);
    fill_window(a);
    a.block_table = {table.data, table.dtype == DType::kInt64};
    a.lengths = {lengths.data, lengths.dtype == DType::kInt64};
    a.page_of = PageDivision(a.page_size);
    return a;
  }

  template <class T>
  static AttentionTensor<T const> cache(Tensor const& given) {
    return {static_cast<T const*>(given.data), {given.stride(0), given.stride(2), given.stride(1)}};
  }
};

Register<PagedWindowAttention> const paged_window_attention;

}  // namespace
}  // namespace bridge
