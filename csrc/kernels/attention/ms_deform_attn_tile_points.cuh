// The points of ms_deform_attn_tiles.cuh: what is read of them, and how they are added up.
#pragma once

#include "kernels/attention/ms_deform_attn_tile_units.cuh"

namespace bridge {

// Reads what no other query needs: it does not stay in L1.
template <class T, int N>
__device__ Vec<T, N> read_once(T const* data) {
  if constexpr (N * sizeof(T) > kAccessBytes) {
    Vec<T, N / 2> const halves[2] = {read_once<T, N / 2>(data), read_once<T, N / 2>(data + N / 2)};
    return *reinterpret_cast<Vec<T, N> const*>(halves);
  }
  using Word = std::conditional_t<sizeof(T) * N == 4, uint32_t, std::conditional_t<sizeof(T) * N == 8, uint2, uint4>>;
  Word word;
  if constexpr (sizeof(Word) == 4)
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(data));
  else if constexpr (sizeof(Word) == 8)
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(word.x), "=r"(word.y) : "l"(data));
  else
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
        : "l"(data));
  return *reinterpret_cast<Vec<T, N>*>(&word);
}

// N numbers from data[i] on, of float32 or of T; of float32 where S is and all are not known to be of T.
template <class S, class T, int N>
__device__ Vec<S, N> read_once(void const* data, bool is_float, int64_t i) {
  if constexpr (std::is_same_v<S, T>) {
    return read_once<T, N>(static_cast<T const*>(data) + i);
  } else {
    if (is_float) return read_once<float, N>(static_cast<float const*>(data) + i);
    Vec<T, N> const narrow = read_once<T, N>(static_cast<T const*>(data) + i);
    Vec<float, N> wide;
#pragma unroll
    for (int k = 0; k < N; ++k) wide.lane[k] = to_float(narrow.lane[k]);
    return wide;
  }
}

// A point as it is added up exactly. corner: of its upper left one, how far it is from the first position, in
// vectors of channels; above that, whether the others are one position to the right and one row below. Negative: the
// point counts for nothing. weights: four of T, of the corners.
struct alignas(16) MsDeformAttnPoint {
  static constexpr int kRight = 1 << 30, kBelow = 1 << 29, kCorner = kBelow - 1;
  int corner;
  float weight;
  float2 weights;
};

template <class T>
__device__ MsDeformAttnPoint make_point(float2 pixel, MsDeformAttnLevel const& level, int pitch, float weight) {
  MsDeformAttnAxis const column(pixel.x, level.width), row(pixel.y, level.height);
  bool const inside = column.inside && row.inside;
  bool const nothing = !isnan(pixel.x) && !isnan(pixel.y) && fabsf(weight) < INFINITY;
  int const first = (level.start + row.low * level.columns + column.low) * pitch;
  int const steps =
      (column.high > column.low ? MsDeformAttnPoint::kRight : 0) | (row.high > row.low ? MsDeformAttnPoint::kBelow : 0);
  return {inside    ? first | steps
          : nothing ? kNoPoint
                    : 0,
          inside ? weight : nanf(""),
          {pair_bits<T>(row.low_weight * column.low_weight, row.low_weight * column.high_weight),
           pair_bits<T>(row.high_weight * column.low_weight, row.high_weight * column.high_weight)}};
}

// base + index, by one instruction: the compiler would spread the sum over those around it.
__device__ inline uint4 const* vectors_from(uint4 const* base, int index) {
  uint64_t address;
  asm("mad.wide.u32 %0, %1, 16, %2;" : "=l"(address) : "r"(index), "l"(base));
  return reinterpret_cast<uint4 const*>(address);
}

// sum += weight * sample, lane by lane, unless `corner` is negative. In place, which the compiler would not do.
template <class Pair>
__device__ void add_where(float (&sum)[8], Pair const (&sample)[4], float weight, int corner) {
  float2 const a = to_floats(sample[0]), b = to_floats(sample[1]), c = to_floats(sample[2]), d = to_floats(sample[3]);
  asm("{ .reg .pred counts; setp.ge.s32 counts, %17, 0;\n"
      "@counts fma.rn.f32 %0, %16, %8, %0;\n @counts fma.rn.f32 %1, %16, %9, %1;\n"
      "@counts fma.rn.f32 %2, %16, %10, %2;\n @counts fma.rn.f32 %3, %16, %11, %3;\n"
      "@counts fma.rn.f32 %4, %16, %12, %4;\n @counts fma.rn.f32 %5, %16, %13, %5;\n"
      "@counts fma.rn.f32 %6, %16, %14, %6;\n @counts fma.rn.f32 %7, %16, %15, %7; }\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]), "+f"(sum[4]), "+f"(sum[5]), "+f"(sum[6]), "+f"(sum[7])
      : "f"(a.x), "f"(a.y), "f"(b.x), "f"(b.y), "f"(c.x), "f"(c.y), "f"(d.x), "f"(d.y), "f"(weight), "r"(corner));
}

// Gathers the four corners of a point, interpolates in T and adds it up in float32.
template <class T>
__device__ void add_point(float (&sum)[8], uint4 const* map, MsDeformAttnPoint const& point, int pitch, int row_pitch) {
  int const first = point.corner & MsDeformAttnPoint::kCorner;
  int const right = point.corner & MsDeformAttnPoint::kRight ? pitch : 0;
  int const lower = point.corner & MsDeformAttnPoint::kBelow ? first + row_pitch : first;
  uint4 const corners[4] = {__ldg(vectors_from(map, first)), __ldg(vectors_from(map, first + right)),
                            __ldg(vectors_from(map, lower)), __ldg(vectors_from(map, lower + right))};
  PackedCorners<T> const packed(corners, point.weights.x, point.weights.y);
  PairOf<T> const sample[4] = {packed.sample(0), packed.sample(1), packed.sample(2), packed.sample(3)};
  add_where(sum, sample, point.weight, point.corner);
}

// Of a neighbour `distance` away along an axis.
__device__ inline float bilinear_weight(float distance) { return __saturatef(1.f - fabsf(distance)); }

// Four points of a level as lanes hand them to each other. corners: of their upper left ones, how far each is from the
// first position, in vectors of channels; kOutside: all four corners are outside the level. weights: four of T a point,
// of its corners, times its attention weight.
struct MsDeformAttnFourPoints {
  static constexpr int kWords = 3;
  static constexpr uint32_t kOutside = 1u << 31;
  uint4 corners, weights[2];

  __device__ uint32_t& corner(int k) { return (&corners.x)[k]; }
  __device__ uint32_t corner(int k) const { return (&corners.x)[k]; }
  __device__ uint32_t* weights_of(int k) { return &weights[k / 2].x + k % 2 * 2; }
  __device__ uint32_t const* weights_of(int k) const { return &weights[k / 2].x + k % 2 * 2; }
  __device__ bool some_outside() const { return (corners.x | corners.y | corners.z | corners.w) & kOutside; }

  // Those outside share a position, which stays in L1.
  __device__ void move_inside() {
#pragma unroll
    for (int k = 0; k < 4; ++k) corner(k) = max(static_cast<int>(corner(k)), 0);
  }
  // Those outside come last, so that lanes leave them out together.
  __device__ void sort() { order(0, 1), order(2, 3), order(0, 2), order(1, 3), order(1, 2); }

 private:
  __device__ void order(int i, int j) {
    bool const swaps = corner(i) >= kOutside && corner(j) < kOutside;
    auto exchange = [&](uint32_t& a, uint32_t& b) {
      uint32_t const first = a, second = b;
      a = swaps ? second : first, b = swaps ? first : second;
    };
    exchange(corner(i), corner(j));
    for (int w = 0; w < 2; ++w) exchange(weights_of(i)[w], weights_of(j)[w]);
  }
};

// A power of two for the weights of a (query, head), so that float16 has bits for each, and its inverse.
struct MsDeformAttnWeightScale {
  float up = 1.f, down = 1.f;

  MsDeformAttnWeightScale() = default;
  // largest: of a lane's; all lanes of the (query, head) call. up * largest: from 0.5 to 1.
  __device__ explicit MsDeformAttnWeightScale(float largest) {
    for (int distance = 1; distance < MsDeformAttnTilesPlan::kLanes; distance *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    constexpr int kExponent = 0xff << 23, kOne = 1 << 23;
    int const above = (__float_as_int(largest) & kExponent) + kOne;
    up = __int_as_float((254 << 23) - above), down = __int_as_float(above);
  }
};

// A vector of channels; zeros where a corner is outside. The compiler would branch.
template <bool kLeavesOut>
__device__ uint4 load_tile_corner(uint4 const* address, uint32_t corner) {
  if constexpr (!kLeavesOut) return __ldg(address);
  uint4 vector{};
  asm("{ .reg .pred inside; setp.ge.s32 inside, %5, 0;\n"
      "@inside ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
      : "+r"(vector.x), "+r"(vector.y), "+r"(vector.z), "+r"(vector.w)
      : "l"(address), "r"(corner));
  return vector;
}

// Of point k, the nearest four positions, all within the level; where it is outside, or not finite, the weights are
// zeros, or NaN, which must not be all that is known of it: see `add_exactly`.
template <class T>
__device__ void write_tile_point(MsDeformAttnFourPoints& points, int k, float2 pixel,
                                 MsDeformAttnTileLevel const& level, int pitch, float weight) {
  int const column = min(max(__float2int_rd(pixel.x), 0), level.last_column);
  int const row = min(max(__float2int_rd(pixel.y), 0), level.last_row);
  float const x = pixel.x - float(column), y = pixel.y - float(row);
  float const left = bilinear_weight(x), right = bilinear_weight(x - 1.f);
  float const upper = bilinear_weight(y), lower = bilinear_weight(y - 1.f);
  bool const inside = (left + right) * (upper + lower) > 0.f;
  weight = fmaf(pixel.x + pixel.y, 0.f, weight);  // a saturated weight hides NaN
  float const above = upper * weight, below = lower * weight;
  uint32_t const corner = (level.start + row * level.columns + column) * pitch;
  points.corner(k) = inside ? corner : MsDeformAttnFourPoints::kOutside;
  points.weights_of(k)[0] = __float_as_uint(pair_bits<T>(above * left, above * right));
  points.weights_of(k)[1] = __float_as_uint(pair_bits<T>(below * left, below * right));
}

// Gathers the corners of four points, whose rows lie `down` vectors apart. Two points at a time are added up in T, and
// all in float32, times scale. kLeavesOut: corners outside are not read.
template <class T, bool kLeavesOut>
__device__ void add_four_points(float (&sum)[8], uint4 const* map, MsDeformAttnFourPoints const& points, int pitch,
                                int down, float scale) {
  PairOf<T> two_points[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t const corner = points.corner(k), *const weights = points.weights_of(k);
    uint4 const *upper = vectors_from(map, corner), *lower = vectors_from(map, corner + down);
    auto load = [&](uint4 const* address) { return load_tile_corner<kLeavesOut>(address, corner); };
    uint4 const corners[4] = {load(upper), load(upper + pitch), load(lower), load(lower + pitch)};
    PackedCorners<T> const packed(corners, __uint_as_float(weights[0]), __uint_as_float(weights[1]));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      two_points[i] = k % 2 ? packed.sample(i, two_points[i]) : packed.sample(i);
      if (k % 2 == 0) continue;
      float2 const wide = to_floats(two_points[i]);
      sum[2 * i] = fmaf(scale, wide.x, sum[2 * i]), sum[2 * i + 1] = fmaf(scale, wide.y, sum[2 * i + 1]);
    }
  }
}

template <int N>
__device__ bool all_finite(float const (&sum)[N]) {
  float zero = 0.f;
#pragma unroll
  for (int i = 0; i < N; ++i) zero = fmaf(sum[i], 0.f, zero);
  return zero == 0.f;
}

// Stores what no kernel reads of L1.
template <class T, int N>
__device__ void store_once(T* out,  // [N]
                           float const (&sum)[N], float scale, bool owns) {
  static_assert(N * sizeof(T) == sizeof(uint4));
  Vec<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.lane[i] = from_float<T>(sum[i] * scale);
  if (owns) __stcs(reinterpret_cast<uint4*>(out), *reinterpret_cast<uint4 const*>(&result));
}

}  // namespace bridge
