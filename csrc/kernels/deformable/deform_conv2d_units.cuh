// Gathers for narrow offset groups. A stage of the sum holds several units: a unit is 8, 16 or 32 bytes of channels
// that share an offset group, at one tap. So no lane of a tensor core waits for channels that an offset group does not
// have. A thread owns two output positions side by side and, of every four units, one. It computes a sample's place and
// its bilinear weights once, reads the unit at the four corners, and keeps the result where mma and wgmma want it.
//
// Every run of channels that makes a unit has a map of its own, so that neighbours in a map lie in the same lines of
// the L1. Maps have a border of zeros: one row and column before, two or more after. A sample outside the map is taken
// from there.
#pragma once

#include "kernels/deformable/deform_conv2d_fused.cuh"

namespace bridge {

constexpr int kUnitPositions = 128, kUnitThreads = 256;  // of a tile; 8 warps of 16 positions, perhaps several times
constexpr int kUnitsApart = 4;                           // threads that share a position
constexpr int kOwnWords = 8;                             // of a row of a stage, in each of these threads
constexpr float kInteger =
    12582912.f;  // 1.5 * 2^23: added to a number under 2^22, it leaves the integer in the low bits

// Two values side by side, in as few registers as they fill.
template <class T>
struct TapPair {
  using Word = std::conditional_t<sizeof(T) == 2, uint32_t, uint2>;
  Word word;

  // Not kTogether: the second lies `apart` after the first, which is nowhere else where there is only one.
  template <bool kTogether>
  static __device__ TapPair load(char const* from, int apart) {
    if constexpr (kTogether) return {__ldcs(reinterpret_cast<Word const*>(from))};  // nobody reads it again
    T const* const first = reinterpret_cast<T const*>(from);
    Vec<T, 2> const both{__ldg(first), __ldg(first + apart)};
    return {reinterpret_cast<Word const&>(both)};
  }
  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(i ? word.y : word.x);
    } else {
      auto const bits = static_cast<uint16_t>(i ? word >> 16 : word);
      return to_float(reinterpret_cast<T const&>(bits));
    }
  }
};

__device__ inline bool either_is_nan(float a, float b) {
  int either;
  asm("{ .reg .pred nan; setp.nan.f32 nan, %1, %2; selp.s32 %0, 1, 0, nan; }" : "=r"(either) : "f"(a), "f"(b));
  return either;
}

// base + index * bytes, by one instruction: the compiler would spread the sum over those around it.
__device__ inline char const* element(char const* base, uint32_t index, uint32_t bytes) {
  uint64_t address;
  asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(index), "r"(bytes), "l"(base));
  return reinterpret_cast<char const*>(address);
}

// An order in which neighbouring threads read corners of their samples from other banks of the L1. A pixel lies beside
// the one to its right, and half of all banks away from the one below: pitch_of_map. kWords: of a unit.
template <int kWords>
struct CornerOrder {
  uint32_t first, second;                             // pixels of the upper row: the column that comes first, the other
  bool right_first, below_in_first, below_in_second;  // which of a column's two comes first

  __device__ explicit CornerOrder(uint32_t top_left) {
    constexpr int kLane = kWords == 8 ? 1 : 0, kHalfOfBanks = kWords == 8 ? 1 : 2;  // as bits of a pixel's place
    uint32_t const across = threadIdx.x >> kLane, down = kWords == 2 ? threadIdx.x : threadIdx.x >> (kLane + 1);
    uint32_t const right = kWords == 2 ? 0 : (top_left ^ across) & 1;  // units of 8 bytes: both columns in one access
    right_first = right, first = top_left + right, second = top_left + (right ^ 1);
    below_in_first = (first >> kHalfOfBanks ^ down) & 1, below_in_second = (second >> kHalfOfBanks ^ down) & 1;
  }
};

// What a thread knows of a sample before its corners arrive. Of units of 32 bytes it holds one half at a time.
// kSpread: corners come in CornerOrder.
template <class T, int kWords, bool kSpread>
struct UnitSample {
  static constexpr int kHeld = std::min(kWords, 4);
  SampleCorners<T> at;  // top_left: in a map with its border; weights: in the order of the corners
  alignas(16) uint32_t corner[4][kHeld];

  __device__ void locate(DeformConv2dArguments<T> const& a, UnitGeometry const& unit, float y, float x, float scale) {
    float const height = float(a.height), width = float(a.width);
    float const inside_y = y > -1.f && y < height ? y : height, inside_x = x > -1.f && x < width ? x : width;
    float const top = __fadd_rd(inside_y, kInteger), left = __fadd_rd(inside_x, kInteger);
    float const below = inside_y - (top - kInteger), right = inside_x - (left - kInteger);
    at.top_left = static_cast<int>(__float_as_uint(top) * unit.pitch + (__float_as_uint(left) + unit.origin));
    scale = either_is_nan(y, x) ? nanf("") : scale;
    set_weights(scale, below, right);
  }
  __device__ void set_weights(float scale, float below, float right) {
    float const low = scale * below, high = scale - low;
    if constexpr (!kSpread) {
      float const low_right = low * right, high_right = high * right;
      at.set_weights({high - high_right, high_right, low - low_right, low_right});
      return;
    }
    CornerOrder<kWords> const order(at.top_left);
    float const first = order.right_first ? right : 1.f - right, second = 1.f - first;
    float const first_row = order.below_in_first ? low : high, last_row = order.below_in_first ? high : low;
    if constexpr (kWords == 2) {
      at.set_weights({first_row * first, first_row * second, last_row * first, last_row * second});
    } else {
      float const of_second = order.below_in_second ? low : high, last_of_second = order.below_in_second ? high : low;
      at.set_weights({first_row * first, of_second * second, last_row * first, last_of_second * second});
    }
  }
  __device__ void load(char const* map, UnitGeometry const& unit, int half) {
    constexpr uint32_t kBytes = unit_pixel_bytes(32 / kWords);
    auto const read = [half](char const* from) {  // the other half may be before it
      return __ldg(reinterpret_cast<uint4 const*>(reinterpret_cast<uintptr_t>(from) ^ (kAccessBytes * half)));
    };
    auto* const corners = reinterpret_cast<uint4*>(corner);
    if constexpr (!kSpread) {
      char const *const upper = element(map, at.top_left, kBytes), *const lower = upper + unit.row_bytes;
      if constexpr (kWords == 2) {
        corners[0] = read(upper), corners[1] = read(lower);
      } else {
        corners[0] = read(upper), corners[1] = read(upper + kBytes);
        corners[2] = read(lower), corners[3] = read(lower + kBytes);
      }
      return;
    }
    CornerOrder<kWords> const order(at.top_left);
    auto const pixel = [&](uint32_t at, bool below) {
      return read(element(map, at + (below ? unit.pitch : 0), kBytes));
    };
    if constexpr (kWords == 2) {
      corners[0] = pixel(order.first, order.below_in_first), corners[1] = pixel(order.first, !order.below_in_first);
    } else {
      corners[0] = pixel(order.first, order.below_in_first), corners[1] = pixel(order.second, order.below_in_second);
      corners[2] = pixel(order.first, !order.below_in_first), corners[3] = pixel(order.second, !order.below_in_second);
    }
  }
  template <bool kRounds>
  __device__ uint32_t word(int i) const {
    using Lanes = typename SampleCorners<T>::Lanes;
    auto const value = [&](int j) { return reinterpret_cast<Lanes const&>(corner[j][i]); };
    Lanes sum = at.weight(0) * value(0);
#pragma unroll
    for (int j = 1; j < 4; ++j) sum = multiply_add_lanes(at.weight(j), value(j), sum);
    if constexpr (kRounds) sum = round_to_tf32(sum);
    return reinterpret_cast<uint32_t const&>(sum);
  }
};

// A thread's samples of a stage, in kSets sets: both positions of a unit of 8 bytes, one of a unit of 16, half a one of
// 32. Two sets are on their way at once. kUnits: of a stage. kLogits: DeformConv2dArguments::logits.
template <class T, int kUnits, bool kRounds, bool kLogits, bool kSpread>
struct UnitRows {
  static constexpr int kWords = 32 / kUnits, kOwn = kOwnWords / kWords;  // words of a unit, units of this thread
  static constexpr int kInSet = kWords == 2 ? 2 : 1, kHalves = kWords == 8 ? 2 : 1, kSets = 4;
  static_assert(kSets * kInSet == 2 * kOwn * kHalves);

  struct Taps {
    TapPair<T> dy, dx, mask;
  };

  DeformConv2dArguments<T> const& a;
  UnitGeometry const& unit;
  UnitTerm const* terms;      // of this thread's first unit of the stage at work; in global or shared memory
  char const *offset, *mask;  // of the first position, in the first plane of its image
  char const* maps;           // of its image
  float top, left;            // where its first tap lies without an offset
  int second;                 // position: how far from the first
  bool wanted;                // any position of this warp
  Taps taps[kOwn];            // of the stage at work or, when that has used them, of the next one
  float y, x;                 // of the unit at work
  char const* map;            // likewise
  UnitSample<T, kWords, kSpread> sample[2][kInSet];

  // terms: of the first stage, and of those after it, one stage more than there are.
  __device__ UnitRows(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan, PackedOperands<T> const& packed,
                      UnitTerm const* terms)
      : a(a), unit(plan.unit), terms(terms + threadIdx.x % kUnitsApart) {
    OutputPosition at = tile_position(a, plan.positions, kUnitPositions, blockIdx.x, first_position());
    second = at.column + 1 < a.out_width, wanted = __any_sync(~0u, at.valid);
    if (unit.pairs) at.column &= ~1;
    int64_t const pixel = int64_t(at.row) * a.out_width + at.column;
    offset = reinterpret_cast<char const*>(a.offset + at.n * a.offset_image + pixel);
    mask = reinterpret_cast<char const*>(a.mask ? a.mask + at.n * a.mask_image + pixel : packed.zeros + kDepth<T>);
    maps = reinterpret_cast<char const*>(packed.x) + at.n * plan.runs() * int64_t(unit.map_bytes);
    if (kWords == 8 && second_half_first(threadIdx.x)) maps += kAccessBytes;
    top = float(at.row * a.stride_h - a.padding_h), left = float(at.column * a.stride_w - a.padding_w);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) fetch(i, this->terms);
  }

  static __device__ int first_position() {
    return threadIdx.x % kUnitThreads / 32 * 16 + threadIdx.x % 32 / kUnitsApart * 2;
  }

  // Asks for offsets and masks of one of this thread's units. of: its first one's of that stage.
  __device__ void fetch(int own, UnitTerm const* of) {
    uint32_t const tap = of[own * kUnitsApart].tap;
    taps[own] = unit.pairs ? fetch_taps<true>(tap) : fetch_taps<false>(tap);
  }
  template <bool kPairs>
  __device__ Taps fetch_taps(uint32_t tap) const {
    char const* const dy = element(offset, tap, unit.offset_bytes);
    return {TapPair<T>::template load<kPairs>(dy, second),
            TapPair<T>::template load<kPairs>(dy + unit.offset_bytes / 2, second),
            TapPair<T>::template load<kPairs>(element(mask, tap, unit.mask_bytes), second)};
  }

  __device__ void begin_unit(int own) {
    uint4 const bits = *reinterpret_cast<uint4 const*>(terms + own * kUnitsApart);
    auto const& term = reinterpret_cast<UnitTerm const&>(bits);
    y = top + term.y, x = left + term.x, map = element(maps, term.map, unit.map_bytes);
  }

  template <int kSet>
  static constexpr int kFirst = kSet * kInSet / kHalves;  // sample of a set: unit by unit, both positions of each

  // Asks for the corners of a set and, where that was the last use of its offsets, for those of the next stage.
  template <int kSet>
  __device__ void load() {
    constexpr int kHalf = kSet % kHalves;
#pragma unroll
    for (int i = 0; i < kInSet; ++i) {
      int const own = (kFirst<kSet> + i) / 2, position = (kFirst<kSet> + i) % 2;
      auto& at = sample[kSet % 2][i];
      if constexpr (kHalf == 0) {
        if (position == 0) begin_unit(own);
        float const left_of = position ? x + float(a.stride_w) : x;
        Taps const& tap = taps[own];
        float const mask = tap.mask[position];
        at.locate(a, unit, y + tap.dy[position], left_of + tap.dx[position], kLogits ? sigmoid<T>(mask) : mask);
      } else {
        at.at = sample[(kSet + 1) % 2][i].at;
      }
      at.load(map, unit, kHalf);
      if (position == 1 && kHalf == 0) fetch(own, terms + kUnits);
    }
    if constexpr (kSet == kSets - 1) terms += kUnits;
  }
  // Interpolates between them, into what tensor cores take for each step.
  template <int kSet, int kParts>
  __device__ void interpolate(uint32_t (&fragment)[kParts][4][4]) const {
    constexpr int kHeld = UnitSample<T, kWords, kSpread>::kHeld;
    __syncwarp();  // else the compiler would interpolate first and load then, with nothing on its way meanwhile
#pragma unroll
    for (int i = 0; i < kInSet; ++i) {
      int const own = (kFirst<kSet> + i) / 2, position = (kFirst<kSet> + i) % 2;
#pragma unroll
      for (int word = 0; word < kHeld; ++word) {
        int const place = own * kWords + kSet % kHalves * kHeld + word;
        uint32_t& whole = fragment[0][place / 2][place % 2 * 2 + position];
        whole = sample[kSet % 2][i].template word<kRounds>(word);
        if constexpr (kParts == 2) fragment[1][place / 2][place % 2 * 2 + position] = split_off(whole);
      }
    }
  }
};

}  // namespace bridge
