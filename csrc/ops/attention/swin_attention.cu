#include <climits>
#include <cmath>

#include "core/device.h"
#include "core/dispatch.h"
#include "core/op.h"
#include "kernels/swin_attention/swin_attention.cuh"

namespace bridge {
namespace {

struct SwinAttention final : Op {
  static constexpr char const* name = "swin_attention";
  static std::vector<Param> inputs() {
    return {or_strided({"q", kFloating}),                   // [windows, tokens, C or 3 C] or [N, H, W, C or 3 C]
            or_strided({"k", kLikeFirst, true}),            // as q; absent where q holds all three
            or_strided({"v", kLikeFirst, true}),            // as k
            {"bias", kLikeFirst | kFloat32, true},          // [heads, tokens, tokens]
            {"mask", kLikeFirst | kFloat32, true},          // [masks, tokens, tokens]
            {"logit_scale", kLikeFirst | kFloat32, true}};  // [heads]
  }
  static std::vector<Param> outputs() {
    return {{"out", kLikeFirst}};  // as q, with C channels
  }

  int64_t heads = 1;
  Pair window{0, 0}, shift{0, 0};
  bool grid = false, head_major = false;
  double scale = 0.0, shift_mask = -100.0;

  std::vector<Attribute> attributes() override {
    return {{"heads", &heads},           {"window", &window}, {"shift", &shift},          {"grid", &grid},
            {"head_major", &head_major}, {"scale", &scale},   {"shift_mask", &shift_mask}};
  }

  void shapes(Shape const* in, Shape* out) const override {
    Shape const& q = in[0];
    require(q.rank == 3 || q.rank == 4, name, ": q has shape ", q,
            ", expected [windows, tokens, channels] or [N, H, W, channels]");
    bool const packed = !in[1].present();
    require(in[1].present() == in[2].present(), name,
            ": k and v must be given together, or neither where q holds all three");
    require(!head_major || packed, name, ": head_major is of a q that holds k and v too, but k is given");
    if (!packed) require_shape(name, "k", in[1], q), require_shape(name, "v", in[2], q);
    check_channels(q, packed);
    check_windows(q);
    require(std::isfinite(scale), name, ": scale is ", scale, ", expected a finite number (0 for 1 / sqrt(D))");
    require(!std::isnan(shift_mask), name, ": shift_mask is ", shift_mask, ", expected a number");
    check_tables(in, q);
    out[0] = q;
    if (packed) out[0].dims[q.rank - 1] = floor_div(q[q.rank - 1], 3);
  }

  // Windows that a block holds at once, of up to 64 tokens and 16-bit types.
  enum Tactic { kTwoStages = 0, kThreeStages = 1 };

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    Tensor const& q = in[0];
    bool const small = q.rank == 3 ? q[1] <= kSwinWindowTokens : window[0] * window[1] <= kSwinWindowTokens;
    bool const both = q.dtype != DType::kFloat32 && small && current_device().capability >= 80;
    return both ? std::vector<int>{kTwoStages, kThreeStages} : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const* out) const override {
    if (tactics(in, out).empty()) return -1;
    if (in[4].present() || in[5].present()) return kTwoStages;
    SwinArguments<half> const a = arguments<half>(in, out[0]);
    bool const three = swin_window_stages(a.all_windows() * a.heads, a.head_dim, current_device()) == 3;
    return three ? kThreeStages : kTwoStages;
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    int const chosen = tactic < 0 ? own_tactic(in, out) : tactic;
    return dispatch_floating(in[0].dtype, [&](auto tag) {
      using T = decltype(tag);
      int const stages = chosen == kThreeStages ? 3 : 2;
      return launch_swin_attention(arguments<T>(in, out[0]), stages, current_device(), stream);
    });
  }

 private:
  void check_channels(Shape const& q, bool packed) const {
    require(heads >= 1 && heads <= INT_MAX, name, ": heads is ", heads, ", expected 1 or more");
    Dim const channels = q[q.rank - 1];
    int64_t const unit = heads * (packed ? 3 : 1);
    bool const fits = !channels.known() || (channels.value() > 0 && channels.value() % unit == 0 &&
                                            channels.value() / unit <= kSwinMaxHeadDim);
    require(fits, name, ": q has ", channels, " channels, expected ", packed ? "3 " : "", "heads (", heads,
            ") times a head_dim of 1 to ", kSwinMaxHeadDim);
  }

  void check_windows(Shape const& q) const {
    auto const text = [](Pair const& pair) { return std::to_string(pair[0]) + " x " + std::to_string(pair[1]); };
    if (q.rank == 3) {
      bool const none = window == Pair{0, 0} && shift == Pair{0, 0} && !grid;
      require(none, name, ": window ", text(window), ", shift ", text(shift),
              " and grid are of a map [N, H, W, channels], but q has shape ", q);
      return;
    }
    for (int axis = 0; axis < 2; ++axis) {
      require(window[axis] >= 1 && window[axis] <= INT_MAX, name, ": window is ", text(window),
              ", expected 1 x 1 or more for a map");
      require(shift[axis] >= 0 && shift[axis] < window[axis], name, ": shift is ", text(shift),
              ", expected 0 or more, and less than window, ", text(window));
      require(may_divide(window[axis], q[1 + axis]), name, ": q has shape ", q, ", expected multiples of window, ",
              text(window), ", along H and W");
    }
    require(!grid || shift == Pair{0, 0}, name, ": shift is ", text(shift), ", expected 0 x 0 with grid");
  }

  void check_tables(Shape const* in, Shape const& q) const {
    Dim const tokens = q.rank == 3 ? q[1] : (Size(window[0]) * window[1]).value();
    if (in[3].present()) require_shape(name, "bias", in[3], {heads, tokens, tokens});
    if (in[5].present()) require_shape(name, "logit_scale", in[5], {heads});
    if (!in[4].present()) return;
    require_shape(name, "mask", in[4], {Dim::unknown(), tokens, tokens});
    Dim const all = q.rank == 3 ? q[0] : q[0] * floor_div(q[1], window[0]) * floor_div(q[2], window[1]);
    require(may_divide(in[4][0], all), name, ": mask has shape ", in[4], ", expected as many as divide the ", all,
            " windows");
  }

  SwinWindows windows(Tensor const& q) const {
    SwinWindows w{};
    if (q.rank == 3) {
      w.rows = w.columns = w.height = w.map_height = 1, w.width = w.map_width = to_int(q[1]);
    } else {
      w.height = to_int(window[0]), w.width = to_int(window[1]), w.map_height = to_int(q[1]),
      w.map_width = to_int(q[2]);
      w.rows = w.map_height / w.height, w.columns = w.map_width / w.width;
      w.shift_y = to_int(shift[0]), w.shift_x = to_int(shift[1]);
    }
    w.window_step_y = grid ? 1 : w.height, w.token_step_y = grid ? w.rows : 1;
    w.window_step_x = grid ? 1 : w.width, w.token_step_x = grid ? w.columns : 1;
    to_int((Size(w.height) * w.width).value());
    to_int((Size(q[0]) * w.rows * w.columns).value());
    return w;
  }

  // head: steps between heads.
  template <class T>
  SwinTensor<T> tensor(Tensor const& given, int64_t head) const {
    if (given.rank == 3) return {static_cast<T*>(given.data), {given.stride(0), 0, given.stride(1), head}};
    return {static_cast<T*>(given.data), {given.stride(0), given.stride(1), given.stride(2), head}};
  }
  template <class T>
  static SwinTable<T> table(Tensor const& given) {
    return {given.data, given.dtype == DType::kFloat32};
  }

  template <class T>
  SwinArguments<T> arguments(Tensor const* in, Tensor const& out) const {
    Tensor const& q = in[0];
    bool const packed = !in[1].present();
    SwinArguments<T> a{};
    a.windows = windows(q);
    a.images = to_int(q[0]), a.heads = to_int(heads), a.head_dim = to_int(out[out.rank - 1] / heads);
    int64_t const head_dim = a.head_dim, part = packed ? head_major ? head_dim : heads * head_dim : 0;
    int64_t const head = head_major ? 3 * head_dim : head_dim;
    a.q = tensor<T const>(q, head), a.out = tensor<T>(out, head_dim);
    a.k = packed ? a.q : tensor<T const>(in[1], head), a.v = packed ? a.q : tensor<T const>(in[2], head);
    a.k.data += part, a.v.data += 2 * part;
    a.bias = table<T>(in[3]), a.mask = table<T>(in[4]), a.logit_scale = table<T>(in[5]);
    a.masks = in[4].present() ? to_int(in[4][0]) : 1;
    a.scale = static_cast<float>(scale != 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(head_dim)));
    a.shift_mask = static_cast<float>(shift_mask);
    return a;
  }
};

Register<SwinAttention> const swin_attention;

}  // namespace
}  // namespace bridge
