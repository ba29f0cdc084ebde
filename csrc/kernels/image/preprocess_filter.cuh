// Samples along one axis: which pixels, and how much of each. The semantics are torch.nn.functional.interpolate's with
// align_corners=False: cubic convolution after Keys 1981, with -0.75, and with -0.5 (as PIL) where it is antialiased.
#pragma once

#include "kernels/image/preprocess_arguments.cuh"

namespace bridge {

// The pixels of one sample. Their weights add up to `total`.
struct Window {
  int first, count;
  float centre;   // of the sample, in pixels, less half a pixel
  float inverse;  // of a pixel's width, where the filter is widened
  float total;
};

struct Axis {
  int from, to;  // pixels before and after
  float scale;   // of the former to one of the latter
  float reach;   // of the filter to each side
  float inverse;
  Filter filter;
  bool antialias;

  __device__ Axis(PreprocessArguments const& a, int from, int to)
      : from(from), to(to), filter(a.filter), antialias(a.antialias) {
    scale = __fdiv_rn(float(from), float(to));
    float const half = filter == Filter::kBicubic ? 2.f : 1.f;
    reach = antialias && scale >= 1.f ? half * scale : half;
    inverse = antialias && scale >= 1.f ? __fdiv_rn(1.f, scale) : 1.f;
  }

  __device__ int nearest(int place) const {
    float const at = filter == Filter::kNearest ? float(place) : __fadd_rn(float(place), 0.5f);
    return min(static_cast<int>(floorf(__fmul_rn(at, scale))), from - 1);
  }

  __device__ float weight(Window const& window, int k) const {
    float const x = fabsf((float(window.first + k) - window.centre) * window.inverse);
    if (filter != Filter::kBicubic) return fmaxf(1.f - x, 0.f);
    float const c = antialias ? -0.5f : -0.75f;
    if (x <= 1.f) return ((c + 2.f) * x - (c + 3.f)) * x * x + 1.f;
    return x < 2.f ? ((c * x - 5.f * c) * x + 8.f * c) * x - 4.f * c : 0.f;
  }

  // Pixels may lie beyond the image where the filter is not antialiased: `clamped` has the one that counts.
  __device__ Window window(int place) const {
    float const centre = scale * (float(place) + 0.5f);
    if (!antialias) {
      int const taps = filter == Filter::kBicubic ? 4 : 2;
      return {static_cast<int>(floorf(centre - 0.5f)) - taps / 2 + 1, taps, centre - 0.5f, 1.f, 1.f};
    }
    int const first = max(static_cast<int>(centre - reach + 0.5f), 0);
    int const end = min(static_cast<int>(centre + reach + 0.5f), from);
    Window window{first, end - first, centre - 0.5f, inverse, 0.f};
    for (int k = 0; k < window.count; ++k) window.total += weight(window, k);
    return window;
  }

  __device__ int clamped(int pixel) const { return min(max(pixel, 0), from - 1); }
};

}  // namespace bridge
