// From resized levels to results: rounded levels, colours, and the normalised values that are written.
#pragma once

#include "kernels/image/preprocess_arguments.cuh"

namespace bridge {

struct Levels {
  float value[kMostChannels];
};

// Red, green and blue of (Y, Cb, Cr).
__device__ inline Levels rgb_of_yuv(PreprocessArguments const& a, Levels yuv) {
  Levels rgb{};
  float const shifted[kMostChannels] = {yuv.value[0] - a.yuv_offset, yuv.value[1] - 128.f, yuv.value[2] - 128.f};
#pragma unroll
  for (int i = 0; i < kMostChannels; ++i) {
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < kMostChannels; ++j) sum = fmaf(a.yuv[i][j], shifted[j], sum);
    rgb.value[i] = fminf(fmaxf(sum, 0.f), 255.f);
  }
  return rgb;
}

__device__ inline float rounded_level(float level) { return fminf(fmaxf(rintf(level), 0.f), 255.f); }

// The normalised channels of a result, of resized levels in the order of the images.
__device__ inline Levels finished(PreprocessArguments const& a, Levels levels) {
  if (a.colours == Colours::kYuv) levels = rgb_of_yuv(a, levels);
  if (a.rounded) {
#pragma unroll
    for (float& level : levels.value) level = rounded_level(level);
  }
  if (a.colours == Colours::kGray) levels.value[1] = levels.value[2] = levels.value[0];
  if (a.reversed) {
    float const first = levels.value[0];
    levels.value[0] = levels.value[2], levels.value[2] = first;
  }
  if (a.results == 1 && a.colours != Colours::kGray) {
    levels.value[0] = 0.299f * levels.value[0] + 0.587f * levels.value[1] + 0.114f * levels.value[2];
  }
#pragma unroll
  for (int i = 0; i < kMostChannels; ++i) levels.value[i] = fmaf(levels.value[i], a.factor[i], a.shift[i]);
  return levels;
}

__device__ inline Levels in_order(bool reversed, Levels const& levels) {
  return reversed ? Levels{{levels.value[2], levels.value[1], levels.value[0]}} : levels;
}

// What stands where there is no resized image: the padding, or NaN where the box is none.
__device__ inline Levels around(PreprocessArguments const& a, bool right) {
  Levels levels{};
#pragma unroll
  for (int i = 0; i < kMostChannels; ++i) levels.value[i] = right ? a.fill[i] : nanf("");
  return levels;
}

template <class T>
__device__ void write(PreprocessArguments const& a, Canvas<T> canvas, int64_t n, int y, int x, Levels const& levels) {
#pragma unroll
  for (int i = 0; i < kMostChannels; ++i) {
    if (i < a.results) canvas.data[canvas.place(a, n, y, x, i)] = from_float<T>(levels.value[i]);
  }
}

}  // namespace bridge
