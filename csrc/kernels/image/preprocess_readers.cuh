// What the kernel of pairs reads around a sample, and the resized levels that it makes of it. Reading comes first, for
// as much as possible is to be under way at once.
#pragma once

#include "kernels/image/preprocess_geometry.cuh"
#include "kernels/image/preprocess_result.cuh"

namespace bridge {

// The byte of a word as a float: 2^23 and a byte are a float whose last bits are that byte.
__device__ inline float float_of_byte(uint32_t word, int byte) {
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7540u + byte)) - 8388608.f;
}

// Two pixels that stand side by side, six bytes. kWords: whole words around them may be read.
template <bool kWords>
struct TwoPixels {
  uint32_t low, high;  // four bytes, and two

  __device__ float operator[](int i) const { return i < 4 ? float_of_byte(low, i) : float_of_byte(high, i - 4); }

  __device__ static TwoPixels read(uint8_t const* at) {
    if constexpr (!kWords) {
      uint32_t const low = __ldg(at) | __ldg(at + 1) << 8 | __ldg(at + 2) << 16 | uint32_t(__ldg(at + 3)) << 24;
      return {low, uint32_t(__ldg(at + 4)) | __ldg(at + 5) << 8};
    }
    uintptr_t const address = reinterpret_cast<uintptr_t>(at);
    auto const* const words = reinterpret_cast<uint32_t const*>(address & ~uintptr_t(3));
    unsigned const start = static_cast<unsigned>(address & 3);
    uint32_t const first = __ldg(words), second = __ldg(words + 1);
    uint32_t const third = __ldg(words + (start == 3 ? 2 : 1));  // the six bytes end in the second word otherwise
    return {__funnelshift_r(first, second, 8 * start), __funnelshift_r(second, third, 8 * start)};
  }
};

// Where a sample lies between a pixel and the next one, both within the axis; an axis of one pixel has no next one.
struct Between {
  int first;
  float share;  // of the second pixel
};

// scale: pixels of the axis, of which there are `from`, to one of the resized.
__device__ inline Between between(int place, int from, float scale) {
  float const at = fmaxf(scale * (float(place) + 0.5f) - 0.5f, 0.f);
  int const first = max(min(static_cast<int>(at), from - 2), 0);
  return {first, fminf(at - float(first), 1.f)};
}

// Of four levels around a sample: two above it and two below.
__device__ inline float bilinear(float first, float second, float third, float fourth, float across, float down) {
  float const above = (1.f - across) * first + across * second, below = (1.f - across) * third + across * fourth;
  return (1.f - down) * above + down * below;
}

// Between which rows a row of the result lies, of the images and of a plane of half their size.
struct RowPlace {
  Between full, half;

  __device__ static RowPlace of(PreprocessArguments const& a, Placement const& p, int row) {
    bool const yuv = a.colours == Colours::kYuv;
    return {between(row, p.height, p.down), yuv ? between(row, p.height / 2, 0.5f * p.down) : Between{}};
  }
};

// Packed pixels of three bytes, of boxes that are two pixels wide at least.
template <bool kWords>
struct PackedAround {
  TwoPixels<kWords> above, below;
  float across;  // share of the second pixel of each

  __device__ static bool takes(Placement const& p) { return p.width > 1; }
  __device__ static PackedAround read(PreprocessArguments const& a, int64_t n, Placement const& p, RowPlace const& row,
                                      int column) {
    Between const place = between(column, p.width, p.across);
    uint8_t const* const upper = a.images.line(n, p.top + row.full.first) + 3 * int64_t(p.left + place.first);
    return {TwoPixels<kWords>::read(upper), TwoPixels<kWords>::read(upper + (p.height > 1 ? a.images.row : 0)),
            place.share};
  }

  __device__ Levels sample(RowPlace const& row) const {
    Levels levels{};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      levels.value[c] = bilinear(above[c], above[3 + c], below[c], below[3 + c], across, row.full.share);
    }
    return levels;
  }
};

// Four pixels of a plane, byte by byte.
template <int kChannels>
struct FourPixels {
  uint8_t value[kChannels][4];
  float across;

  // left, top, width, height: the box in the plane; channels: those that there are.
  __device__ static FourPixels read(Plane const& plane, int64_t n, int left, int top, int width, int height,
                                    float scale, Between const& row, int column, int channels) {
    FourPixels pixels{};
    Between const place = between(column, width, scale);
    uint8_t const* const first = plane.line(n, top + row.first) + int64_t(left + place.first) * plane.pixel;
    int64_t const next = width > 1 ? plane.pixel : 0, below = height > 1 ? plane.row : 0;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c >= channels) continue;
      uint8_t const* const at = first + c * plane.channel;
      pixels.value[c][0] = __ldg(at), pixels.value[c][1] = __ldg(at + next);
      pixels.value[c][2] = __ldg(at + below), pixels.value[c][3] = __ldg(at + below + next);
    }
    pixels.across = place.share;
    return pixels;
  }

  __device__ float level(int c, float down) const {
    return bilinear(float(value[c][0]), float(value[c][1]), float(value[c][2]), float(value[c][3]), across, down);
  }
};

// Pixels of any layout.
struct BytesAround {
  FourPixels<kMostChannels> pixels;

  __device__ static bool takes(Placement const&) { return true; }
  __device__ static BytesAround read(PreprocessArguments const& a, int64_t n, Placement const& p, RowPlace const& row,
                                     int column) {
    return {FourPixels<kMostChannels>::read(a.images, n, p.left, p.top, p.width, p.height, p.across, row.full, column,
                                            a.channels)};
  }

  __device__ Levels sample(RowPlace const& row) const {
    Levels levels{};
#pragma unroll
    for (int c = 0; c < kMostChannels; ++c) levels.value[c] = pixels.level(c, row.full.share);
    return levels;
  }
};

// Luma, and chroma of half its size.
struct YuvAround {
  FourPixels<1> luma;
  FourPixels<2> chroma;

  __device__ static bool takes(Placement const&) { return true; }
  __device__ static YuvAround read(PreprocessArguments const& a, int64_t n, Placement const& p, RowPlace const& row,
                                   int column) {
    return {FourPixels<1>::read(a.images, n, p.left, p.top, p.width, p.height, p.across, row.full, column, 1),
            FourPixels<2>::read(a.chroma, n, p.left / 2, p.top / 2, p.width / 2, p.height / 2, 0.5f * p.across,
                                row.half, column, 2)};
  }

  __device__ Levels sample(RowPlace const& row) const {
    return {{luma.level(0, row.full.share), chroma.level(0, row.half.share), chroma.level(1, row.half.share)}};
  }
};

// Whether pixels are three bytes side by side.
inline bool is_packed(PreprocessArguments const& a) {
  return a.channels == 3 && a.images.pixel == 3 && a.images.channel == 1;
}

// Whether aligned words around any of such pixels lie in the memory of the images.
inline bool whole_words(PreprocessArguments const& a) {
  Plane const& plane = a.images;
  int64_t const end = (a.batch - 1) * plane.image + (a.height - 1) * plane.row + 3 * int64_t(a.width);
  return is_packed(a) && aligned(plane.data, 4) && end % 4 == 0;
}

}  // namespace bridge
