#include "core/device.h"
#include "core/dispatch.h"
#include "kernels/image/preprocess.cuh"
#include "ops/image/preprocess.h"

namespace bridge {
namespace {

struct Preprocess final : Op {
  static constexpr char const* name = "preprocess";
  static std::vector<Param> inputs() {
    return {or_strided({"images", kBytes}),        // [batch, height, width, channels], or by `layout`
            or_strided({"chroma", kBytes, true}),  // [batch, height / 2, width / 2, 2]
            {"boxes", kIndex, true}};              // [batch, 4]
  }
  static std::vector<Param> outputs() {
    return {{"y", kFloating}};  // [batch, channels, *output_size], or channels last
  }

  Pair output_size{224, 224};
  std::vector<double> mean{0.0}, std{1.0};
  double scale = 1.0 / 255;
  std::string source = "rgb", result = "rgb", layout = "nhwc", mode = "bilinear";
  bool antialias = false, rounded = false;
  std::string fit = "stretch";
  Pair resize_size{0, 0};
  bool center = true;
  std::vector<double> fill{0.0};
  std::string matrix = "bt601";
  bool full_range = false, channels_last = false;
  std::string dtype = "float32";

  std::vector<Attribute> attributes() override {
    return {{"output_size", &output_size},
            {"mean", &mean},
            {"std", &std},
            {"scale", &scale},
            {"source", &source},
            {"result", &result},
            {"layout", &layout},
            {"mode", &mode},
            {"antialias", &antialias},
            {"rounded", &rounded},
            {"fit", &fit},
            {"resize_size", &resize_size},
            {"center", &center},
            {"fill", &fill},
            {"matrix", &matrix},
            {"full_range", &full_range},
            {"channels_last", &channels_last},
            {"dtype", &dtype}};
  }

  DType chosen_dtype() const override {
    for (auto const& each : kResultTypes) {
      if (dtype == each.name) return each.value;
    }
    return DType::kUnsupported;
  }

  void shapes(Shape const* in, Shape* out) const override {
    check_attributes();
    Shape const &images = in[0], &boxes = in[2];
    bool const yuv = meaning("source", source, kSources).colours == Colours::kYuv;
    if (yuv) {
      check_yuv(images, in[1]);
    } else {
      check_packed(images, in[1]);
    }
    if (boxes.present()) require_shape(name, "boxes", boxes, {images[0], 4});
    Dim const channels = meaning("result", result, kResults).channels;
    out[0] = channels_last ? Shape{images[0], output_size[0], output_size[1], channels}
                           : Shape{images[0], channels, output_size[0], output_size[1]};
  }

  std::vector<int> tactics(Tensor const* in, Tensor const*) const override {
    std::vector<int> const ways = preprocess_ways(arguments(in), current_device());
    return ways.size() > 1 ? ways : std::vector<int>{};
  }
  int own_tactic(Tensor const* in, Tensor const*) const override {
    std::vector<int> const ways = preprocess_ways(arguments(in), current_device());
    return ways.size() > 1 ? ways.front() : -1;
  }

  cudaError_t run(Tensor const* in, Tensor const* out, void*, cudaStream_t stream) const override {
    PreprocessArguments const a = arguments(in);
    return dispatch_floating(out[0].dtype, [&](auto tag) {
      return launch_preprocess(a, static_cast<decltype(tag)*>(out[0].data), tactic, current_device(), stream);
    });
  }

 private:
  static constexpr int64_t kMostExtent = 1 << 15;  // of a result

  Pair resized() const { return resize_size[0] == 0 && resize_size[1] == 0 ? output_size : resize_size; }

  void check_attributes() const {
    meaning("layout", layout, kLayouts), meaning("mode", mode, kFilters), meaning("fit", fit, kFits);
    meaning("matrix", matrix, kMatrices), meaning("dtype", dtype, kResultTypes);
    for (auto const& [label, size] : {std::pair{"output_size", output_size}, std::pair{"resize_size", resized()}}) {
      bool const fits = size[0] >= 1 && size[0] <= kMostExtent && size[1] >= 1 && size[1] <= kMostExtent;
      require(fits, "preprocess: ", label, " is ", size[0], " x ", size[1], ", expected 1 to ", kMostExtent);
    }
    int const channels = meaning("result", result, kResults).channels;
    check_values("mean", mean, channels), check_values("std", std, channels), check_values("fill", fill, channels);
    require(std::isfinite(scale), "preprocess: scale is ", scale, ", expected a finite number");
  }

  void check_yuv(Shape const& luma, Shape const& chroma) const {
    require(luma.rank == 3, "preprocess: images has shape ", luma, ", expected [images, height, width] of nv12");
    bool const even = may_divide(2, luma[1]) && may_divide(2, luma[2]);
    require(even, "preprocess: images has shape ", luma, ", expected an even height and width of nv12");
    require(chroma.present(), "preprocess: chroma is absent, expected [images, height / 2, width / 2, 2] of nv12");
    require_shape(name, "chroma", chroma, {luma[0], floor_div(luma[1], 2), floor_div(luma[2], 2), 2});
    check_size(luma[1], luma[2]);
  }

  void check_packed(Shape const& images, Shape const& chroma) const {
    require(images.rank == 4, "preprocess: images has shape ", images, ", expected 4 dimensions");
    require(!chroma.present(), "preprocess: chroma is given, which ", source, " images have not");
    bool const last = meaning("layout", layout, kLayouts);
    Dim const channels = images[last ? 3 : 1];
    int const expected = meaning("source", source, kSources).channels;
    require(may_equal(channels, expected), "preprocess: images has ", channels, " channels in ", layout, ", expected ",
            expected);
    check_size(images[last ? 1 : 2], images[last ? 2 : 3]);
  }

  void check_size(Dim height, Dim width) const {
    bool const some = may_exceed(height, 0) && may_exceed(width, 0);
    require(some, "preprocess: images of ", height, " x ", width, " have no pixel");
    Pair const size = resized();
    int64_t const most = ((int64_t(1) << 30) - 1) / std::max(size[0], size[1]);
    for (Dim side : {height, width}) {
      require(!side.known() || side.value() <= most, "preprocess: images of ", height, " x ", width, " resized to ",
              size[0], " x ", size[1], " are too large: the product of the longest sides is 2^30 or more");
    }
  }

  PreprocessArguments arguments(Tensor const* in) const {
    Tensor const &images = in[0], &chroma = in[1], &boxes = in[2];
    Source const given = meaning("source", source, kSources);
    bool const last = meaning("layout", layout, kLayouts), yuv = given.colours == Colours::kYuv;
    PreprocessArguments a{};
    a.images = {static_cast<uint8_t const*>(images.data), images.stride(0), images.stride(yuv || last ? 1 : 2),
                images.stride(yuv || last ? 2 : 3), yuv ? 0 : images.stride(last ? 3 : 1)};
    if (yuv) {
      a.chroma = {static_cast<uint8_t const*>(chroma.data), chroma.stride(0), chroma.stride(1), chroma.stride(2),
                  chroma.stride(3)};
    }
    a.boxes = boxes.data, a.long_boxes = boxes.dtype == DType::kInt64;
    a.batch = to_int(images[0]), a.height = to_int(images[yuv || last ? 1 : 2]);
    a.width = to_int(images[yuv || last ? 2 : 3]);
    a.out_h = to_int(output_size[0]), a.out_w = to_int(output_size[1]);
    a.resize_h = to_int(resized()[0]), a.resize_w = to_int(resized()[1]);
    a.filter = meaning("mode", mode, kFilters), a.fit = meaning("fit", fit, kFits);
    a.colours = given.colours, a.channels = std::min(given.channels, kMostChannels);
    a.antialias = antialias && (a.filter == Filter::kBilinear || a.filter == Filter::kBicubic);
    a.rounded = rounded, a.center = center, a.full_range = full_range, a.channels_last = channels_last;
    fill_colours(a);
    a.whole = placed(a, 0, 0, a.width, a.height);
    return a;
  }

  void fill_colours(PreprocessArguments& a) const {
    Result const wanted = meaning("result", result, kResults);
    a.results = wanted.channels;
    // A gray result takes red first; images of bgr come reversed.
    a.reversed = (a.colours == Colours::kBgr) != wanted.reversed;
    auto const yuv = yuv_matrix(meaning("matrix", matrix, kMatrices), full_range);
    a.yuv_offset = full_range ? 0.f : 16.f;
    auto const of = [](std::vector<double> const& values, int i) { return values[values.size() == 1 ? 0 : i]; };
    for (int i = 0; i < kMostChannels; ++i) {
      for (int j = 0; j < kMostChannels; ++j) a.yuv[i][j] = static_cast<float>(yuv[i][j]);
      int const channel = std::min(i, a.results - 1);
      double const factor = scale / of(std, channel), shift = -of(mean, channel) / of(std, channel);
      a.factor[i] = static_cast<float>(factor), a.shift[i] = static_cast<float>(shift);
      a.fill[i] = static_cast<float>(of(fill, channel) * factor + shift);
    }
  }
};

Register<Preprocess> const preprocess;

}  // namespace
}  // namespace bridge
