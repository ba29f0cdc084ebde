#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/attention/rope.cuh"

namespace bridge {
namespace {

struct Rope final : Op {
  static constexpr char const* name = "rope";
  static std::vector<Param> inputs() {
    return {or_strided({"q", kFloating}),     // [batch, heads, seq, head_dim], or by `layout`
            or_strided({"k", kLikeFirst}),    // [batch, kv_heads, seq, head_dim], likewise
            {"cos", kLikeFirst | kFloat32},   // [rows, width] or [batch or 1, seq, width]
            {"sin", kLikeFirst | kFloat32},   // the same
            {"position_ids", kIndex, true}};  // [batch or 1, seq]
  }
  static std::vector<Param> outputs() {
    return {{"q_out", kLikeFirst},   // as q
            {"k_out", kLikeFirst}};  // as k
  }

  bool interleaved = false;
  int64_t rotary_dim = 0;
  std::string layout = "bhsd";

  std::vector<Attribute> attributes() override {
    return {{"interleaved", &interleaved}, {"rotary_dim", &rotary_dim}, {"layout", &layout}};
  }

  bool heads_first() const { return layout == "bhsd"; }
  int head_axis() const { return heads_first() ? 1 : 2; }
  int seq_axis() const { return heads_first() ? 2 : 1; }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const &q = in[0], &k = in[1];
    require(layout == "bhsd" || layout == "bshd", "rope: layout is \"", layout, "\", expected \"bhsd\" or \"bshd\"");
    require(q.rank == 4 && k.rank == 4, "rope: q and k must have 4 dimensions, got shapes ", q, " and ", k);
    for (int axis : {0, seq_axis(), 3}) {
      require(may_equal(q[axis], k[axis]), "rope: q and k differ in batch, sequence or head_dim: ", q, " and ", k);
    }
    check_rotary_dim(q[3]);
    check_tables(in);
    out[0] = q;
    out[1] = k;
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    require(in[2].dtype == in[3].dtype, "rope: cos and sin differ in dtype: ", dtype_name(in[2].dtype), " and ",
            dtype_name(in[3].dtype));
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      return in[2].dtype == DType::kFloat32 ? launch<T, float>(in, out, stream) : launch<T, T>(in, out, stream);
    });
  }

 private:
  // Of heads and of a head: kernels count both in int, in steps that must not overflow at the end.
  static constexpr int64_t kMaxExtent = 1 << 30;

  void check_rotary_dim(Dim head_dim) const {
    require(rotary_dim >= 0 && rotary_dim % 2 == 0, "rope: rotary_dim is ", rotary_dim,
            ", expected an even number (0 for the whole head_dim)");
    require(may_exceed(head_dim, rotary_dim - 1), "rope: rotary_dim is ", rotary_dim, ", more than head_dim ",
            head_dim);
    require(rotary_dim != 0 || may_divide(2, head_dim), "rope: head_dim is ", head_dim,
            ", expected an even number; rotate a part of it with rotary_dim");
  }

  void check_tables(Shape const* in) const {
    Shape const &q = in[0], &cos = in[2], &sin = in[3], &ids = in[4];
    Dim const rotary = rotary_dim ? Dim(rotary_dim) : q[3], half_dim = floor_div(rotary, 2);
    Dim const batch = q[0], seq = q[seq_axis()];
    require(cos.rank == sin.rank && (cos.rank == 2 || (cos.rank == 3 && !ids.present())),
            "rope: cos and sin must be [rows, width]", ids.present() ? "" : " or [batch, seq, width]", ", got shapes ",
            cos, " and ", sin);
    for (int axis = 0; axis < cos.rank; ++axis) {
      require(may_equal(cos[axis], sin[axis]), "rope: cos and sin differ in shape: ", cos, " and ", sin);
    }
    Dim const width = cos[cos.rank - 1];
    require(may_equal(width, half_dim) || may_equal(width, rotary), "rope: cos and sin have width ", width,
            ", expected ", half_dim, " or ", rotary, " for rotary_dim ", rotary);
    if (ids.present()) {
      require(ids.rank == 2 && (may_equal(ids[0], batch) || may_equal(ids[0], 1)) && may_equal(ids[1], seq),
              "rope: position_ids has shape ", ids, ", expected [", batch, ", ", seq, "] or [1, ", seq, "]");
      return;
    }
    require(may_equal(cos[cos.rank - 2], seq), "rope: cos and sin have ", cos[cos.rank - 2], " rows, expected ", seq,
            " (the sequence length) when there are no position_ids");
    require(cos.rank == 2 || may_equal(cos[0], batch) || may_equal(cos[0], 1), "rope: cos and sin have batch ", cos[0],
            ", expected ", batch, " or 1");
  }

  RopeStrides strides(Tensor const& tensor) const {
    // The step between tokens, or heads, is not taken where there is but one.
    auto step = [&](int axis) { return static_cast<uint32_t>(tensor[axis] > 1 ? tensor.stride(axis) : 0); };
    return {tensor.stride(0), step(seq_axis()), step(head_axis())};
  }

  // Whether the kernel's indices reach all of a tensor: 8 GB and more for each batch element may be too much.
  bool fits(Tensor const& tensor) const {
    int64_t const step = std::max(tensor.stride(seq_axis()), tensor.stride(head_axis()));
    return step <= std::numeric_limits<uint32_t>::max() && tensor[seq_axis()] <= kMaxExtent && tensor[3] <= kMaxExtent;
  }

  template <class T>
  RopeTensor<T> pair(Tensor const& in, Tensor const& out) const {
    return {static_cast<T const*>(in.data), static_cast<T*>(out.data), strides(in), strides(out)};
  }

  template <class T, class Table>
  cudaError_t launch(Tensor const* in, Tensor const* out, cudaStream_t stream) const {
    Tensor const &q = in[0], &k = in[1], &cos = in[2], &ids = in[4];
    if (!fits(q) || !fits(k) || !fits(out[0]) || !fits(out[1])) return cudaErrorInvalidValue;
    if (q[head_axis()] + k[head_axis()] > kMaxExtent) return cudaErrorInvalidValue;
    RopeArguments<T, Table> a{};
    a.tensor[0] = pair<T>(q, out[0]), a.tensor[1] = pair<T>(k, out[1]);
    a.cos = static_cast<Table const*>(cos.data), a.sin = static_cast<Table const*>(in[3].data);
    a.position_ids = ids.present() ? ids.data : nullptr;
    a.wide_ids = ids.dtype == DType::kInt64;
    a.heads_first = heads_first();
    a.batch = q[0], a.seq = to_int(q[seq_axis()]), a.head_dim = to_int(q[3]);
    a.rotary_dim = rotary_dim ? to_int(rotary_dim) : a.head_dim;
    a.heads_q = to_int(q[head_axis()]), a.heads = a.heads_q + to_int(k[head_axis()]);
    a.table_rows = cos[cos.rank - 2], a.table_width = static_cast<uint32_t>(cos[cos.rank - 1]);
    a.table_step = cos.rank == 3 && cos[0] > 1 ? a.table_rows * a.table_width : 0;
    a.ids_step = ids.present() && ids[0] > 1 ? a.seq : 0;
    return launch_rope(a, interleaved, stream);
  }
};

Register<Rope> const rope;

}  // namespace
}  // namespace bridge
