// What the attributes of preprocess may be, and what they stand for in its kernels.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "core/op.h"
#include "kernels/image/preprocess_arguments.cuh"

namespace bridge {

template <class Value>
struct Word {
  char const* name;
  Value value;
};

constexpr Word<Filter> kFilters[] = {{"nearest", Filter::kNearest},
                                     {"nearest-exact", Filter::kNearestExact},
                                     {"bilinear", Filter::kBilinear},
                                     {"bicubic", Filter::kBicubic}};
constexpr Word<Fit> kFits[] = {{"stretch", Fit::kStretch}, {"letterbox", Fit::kLetterbox}, {"crop", Fit::kCrop}};
constexpr Word<bool> kLayouts[] = {{"nhwc", true}, {"nchw", false}};

struct Source {
  Colours colours;
  int channels;  // of a pixel in memory
};
constexpr Word<Source> kSources[] = {{"rgb", {Colours::kRgb, 3}},   {"bgr", {Colours::kBgr, 3}},
                                     {"rgba", {Colours::kRgb, 4}},  {"bgra", {Colours::kBgr, 4}},
                                     {"gray", {Colours::kGray, 1}}, {"nv12", {Colours::kYuv, 1}}};

struct Result {
  int channels;
  bool reversed;  // blue comes first
};
constexpr Word<Result> kResults[] = {{"rgb", {3, false}}, {"bgr", {3, true}}, {"gray", {1, false}}};

struct Luma {
  double red, blue;
};
constexpr Word<Luma> kMatrices[] = {{"bt601", {0.299, 0.114}}, {"bt709", {0.2126, 0.0722}}};
constexpr Word<DType> kResultTypes[] = {
    {"float32", DType::kFloat32}, {"float16", DType::kFloat16}, {"bfloat16", DType::kBFloat16}};

template <class Value, size_t N>
Value meaning(char const* attribute, std::string const& word, Word<Value> const (&words)[N]) {
  std::string known;
  for (auto const& each : words) {
    if (word == each.name) return each.value;
    known += (known.empty() ? "" : ", ") + std::string(each.name);
  }
  require(false, "preprocess: ", attribute, " is \"", word, "\", expected one of ", known);
  return words[0].value;
}

inline void check_values(char const* name, std::vector<double> const& values, int channels) {
  bool const fits = values.size() == 1 || values.size() == static_cast<size_t>(channels);
  require(fits, "preprocess: ", name, " has ", values.size(), " values, expected 1 or ", channels);
  bool const divides = std::string(name) == "std";
  for (double value : values) {
    require(std::isfinite(value) && !(divides && value == 0), "preprocess: ", name, " has ", value,
            divides ? ", expected finite numbers other than 0" : ", expected finite numbers");
  }
}

// From (Y, Cb, Cr), less their offsets, to (R, G, B).
inline std::array<std::array<double, 3>, 3> yuv_matrix(Luma luma, bool full_range) {
  double const green = 1 - luma.red - luma.blue, y = full_range ? 1 : 255.0 / 219, c = full_range ? 1 : 255.0 / 224;
  double const red = 2 * (1 - luma.red) * c, blue = 2 * (1 - luma.blue) * c;
  return {{{y, 0, red}, {y, -blue * luma.blue / green, -red * luma.red / green}, {y, blue, 0}}};
}

}  // namespace bridge
