// What preprocess is given, and where its results go.
#pragma once

#include "kernels/common/vec.cuh"

namespace bridge {

enum class Filter : int { kNearest, kNearestExact, kBilinear, kBicubic };
enum class Fit : int { kStretch, kLetterbox, kCrop };
// What the channels of images are, as they are resized.
enum class Colours : int { kRgb, kBgr, kGray, kYuv };

constexpr int kMostChannels = 3;  // that are read of a pixel, and of a result

// Bytes in memory, and the steps from one to the next of each kind.
struct Plane {
  uint8_t const* data;
  int64_t image, row, pixel, channel;

  __device__ uint8_t const* line(int64_t n, int y) const { return data + n * image + y * row; }
};

struct Placement {
  int left, top, width, height;  // the box in the image
  int wide, high;                // its size once it is resized
  int column, row;               // where its corner stands in the result; negative where it is cut off
  float across, down;            // pixels of the box to one of the resized
  bool right;                    // whether the box is one
};

struct PreprocessArguments {
  Plane images;       // of yuv the luma
  Plane chroma;       // of yuv alone: half as many rows and pixels, of two channels
  void const* boxes;  // [batch, 4] of (left, top, right, bottom), or null
  bool long_boxes;    // int64, not int32
  int batch, height, width;
  int out_h, out_w, resize_h, resize_w;
  Filter filter;
  Fit fit;
  Colours colours;
  int channels;  // that are read of a pixel of images: 1 or 3
  int results;   // channels of the result: 1 or 3
  bool antialias, rounded, center, full_range, reversed, channels_last;
  float yuv_offset;  // of luma
  float yuv[kMostChannels][kMostChannels];
  float factor[kMostChannels], shift[kMostChannels];  // a level times factor plus shift is the result
  Placement whole;                                    // where there are no boxes
  float fill[kMostChannels];                          // results around the resized image
};

template <class T>
struct Canvas {
  T* data;  // [batch, results, out_h, out_w], or [batch, out_h, out_w, results]

  __device__ int64_t place(PreprocessArguments const& a, int64_t n, int y, int x, int channel) const {
    return a.channels_last ? ((n * a.out_h + y) * a.out_w + x) * a.results + channel
                           : ((n * a.results + channel) * a.out_h + y) * a.out_w + x;
  }
};

}  // namespace bridge
