#include <numeric>

#include "core/device.h"
#include "core/dispatch.h"
#include "kernels/block_sparse_attention/block_sparse_attention.cuh"
#include "ops/attention/window_attention_op.h"

namespace bridge {
namespace {

struct BlockSparseAttention final : AttentionOp {
  static constexpr char const* name = "block_sparse_attention";
  static std::vector<Param> inputs() {
    return {or_strided({"q", kFloating}),   // [batch, heads, queries, head_dim], or by `layout`
            or_strided({"k", kLikeFirst}),  // [batch, groups, keys, head_dim], likewise
            or_strided({"v", kLikeFirst}),  // as k
            {"block_mask", kMask},          // [batch or 1, a divisor of heads, query blocks, key blocks]
            {"key_ranges", kIndex, true}};  // [batch or 1, queries or 1, 2]
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // as q
  }

  int64_t query_block = 128, key_block = 128;
  bool causal = false;

  std::vector<Attribute> attributes() override {
    return {{"query_block", &query_block}, {"key_block", &key_block}, {"causal", &causal}, {"scale", &scale},
            {"softcap", &softcap},         {"layout", &layout}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_logits(name);
    check_block("query_block", query_block), check_block("key_block", key_block);
    check_heads(name, in[0], in[1], in[2]);
    check_mask(in[3], in[0][0], in[0][head_axis()], in[0][seq_axis()], in[1][seq_axis()]);
    if (in[4].present()) check_ranges(name, in[4], in[0][0], in[0][seq_axis()]);
    out[0] = in[0];
  }

  size_t workspace(Tensor const* in, Tensor const*) const override { return split_workspace(in[0]); }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      return launch_block_sparse_attention(arguments<T>(in, out[0]), current_device(), workspace, stream);
    });
  }

 private:
  static void check_block(char const* which, int64_t size) {
    require(size > 0, name, ": ", which, " is ", size, ", expected at least 1");
  }

  void check_mask(Shape const& mask, Dim batch, Dim heads, Dim queries, Dim keys) const {
    Dim const query_blocks = ceil_div(queries, query_block), key_blocks = ceil_div(keys, key_block);
    bool const fits = mask.rank == 4 && (may_equal(mask[0], batch) || may_equal(mask[0], 1)) &&
                      may_divide(mask[1], heads) && may_equal(mask[2], query_blocks) && may_equal(mask[3], key_blocks);
    require(fits, name, ": block_mask has shape ", mask, ", expected [", batch, " or 1, a divisor of ", heads, ", ",
            query_blocks, ", ", key_blocks, "]: blocks of ", query_block, " queries and ", key_block, " keys");
  }

  template <class T>
  BlockSparseArguments<T> arguments(Tensor const* in, Tensor const& out) const {
    Tensor const& mask = in[3];
    BlockSparseArguments<T> a{};
    fill(a, in, out);
    fill_ranges(a, in[4]);
    a.window_right = causal ? 0 : kNoWindow;
    a.block_mask = mask.data, a.wide_mask = mask.dtype == DType::kInt32, a.one_mask = mask[0] == 1;
    a.mask_heads = to_int(mask[1]), a.query_blocks = to_int(mask[2]), a.key_blocks = to_int(mask[3]);
    a.query_block = size_of_block(query_block, a.queries), a.key_block = size_of_block(key_block, a.keys);
    a.packed = std::gcd(a.ratio(), a.heads / std::max(a.mask_heads, 1));
    return a;
  }

  // A block beyond the last position is no larger for it; whole pieces stay whole.
  static int size_of_block(int64_t size, int64_t positions) {
    int64_t const most = ceil_divide(std::max<int64_t>(positions, 1), kMostTileExtent) * kMostTileExtent;
    return to_int(std::min(size, most));
  }
};

Register<BlockSparseAttention> const block_sparse_attention;

}  // namespace
}  // namespace bridge
