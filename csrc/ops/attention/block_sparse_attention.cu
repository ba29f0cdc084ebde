#include <algorithm>
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

  // Of compute capability 9.0, for 16-bit types: the kernel of every GPU, or 9.0's own. On an H200, on 2026-11-30, its
  // own took 0.33 to 0.42 of the other's time, and 1.00 for blocks of a few rows, which one kernel computes.
  enum Tactic { kMma = 0, kWgmma = 1 };
  static constexpr Tactic kBestTactic = kWgmma;

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    bool const both = in[0].dtype != DType::kFloat32 && current_device().capability == 90;
    return both ? std::vector<int>{kMma, kWgmma} : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override {
    return tactics(in, out).empty() ? -1 : kBestTactic;
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void* workspace, cudaStream_t stream) const override {
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      auto const way = static_cast<BlockSparseWay>(tactic == kMma ? kMma : kBestTactic);
      return launch_block_sparse_attention(arguments<T>(in, out[0]), way, current_device(), workspace, stream);
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
    a.together = packs_together(a);
    return a;
  }

  // As many as keep their keys and values in the L2 cache; so that blocks with many keys begin early.
  template <class T>
  static int packs_together(BlockSparseArguments<T> const& a) {
    constexpr int64_t kKeptBytes = 32 << 20;
    int64_t const of_key_head = int64_t(2 * sizeof(T)) * std::max(a.keys, 1) * a.head_dim;
    int64_t const packs = std::max<int64_t>(kKeptBytes / of_key_head, 1) * (a.ratio() / a.packed);
    return static_cast<int>(std::clamp<int64_t>(packs, 1, std::max(a.batch * (a.heads / a.packed), 1)));
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
