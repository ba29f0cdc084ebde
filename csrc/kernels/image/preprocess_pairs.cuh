// The kernel of preprocess for packed pixels of three bytes that are resized bilinearly: a thread computes two pixels
// side by side. Two neighbours of an image are six bytes, which it reads as aligned words.
#pragma once

#include "kernels/image/preprocess_geometry.cuh"
#include "kernels/image/preprocess_result.cuh"

namespace bridge {

constexpr int kPairColumns = 32, kPairRows = 8;  // threads of a block

// The byte of a word as a float: 2^23 and a byte are a float whose last bits are that byte.
__device__ inline float float_of_byte(uint32_t word, int byte) {
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7540u + byte)) - 8388608.f;
}

// Two pixels that stand side by side, six bytes. kWords: whole words around them may be read.
template <bool kWords>
struct TwoPixels {
  uint32_t low, high;  // four bytes, and two

  __device__ float operator[](int i) const { return i < 4 ? float_of_byte(low, i) : float_of_byte(high, i - 4); }

  // single: the second one is not there, and the first counts as it.
  __device__ static TwoPixels read(uint8_t const* at, bool single) {
    if (!kWords || single) return read_bytes(at, single);
    uintptr_t const address = reinterpret_cast<uintptr_t>(at);
    auto const* const words = reinterpret_cast<uint32_t const*>(address & ~uintptr_t(3));
    unsigned const start = static_cast<unsigned>(address & 3);
    uint32_t const first = __ldg(words), second = __ldg(words + 1);
    uint32_t const third = __ldg(words + (start == 3 ? 2 : 1));  // the six bytes end in the second word otherwise
    return {__funnelshift_r(first, second, 8 * start), __funnelshift_r(second, third, 8 * start)};
  }

 private:
  __device__ static TwoPixels read_bytes(uint8_t const* at, bool single) {
    uint8_t const* const next = at + (single ? 0 : 3);
    uint32_t const low = __ldg(at) | __ldg(at + 1) << 8 | __ldg(at + 2) << 16 | uint32_t(__ldg(next)) << 24;
    return {low, uint32_t(__ldg(next + 1)) | __ldg(next + 2) << 8};
  }
};

// Where a sample lies between a pixel and the next one, both within the axis; an axis of one pixel has no next one.
struct Between {
  int first;
  float share;  // of the second pixel
};

__device__ inline Between between(int place, int from, int to) {
  float const scale = __fdiv_rn(float(from), float(to));
  float const at = fmaxf(scale * (float(place) + 0.5f) - 0.5f, 0.f);
  int const first = max(min(static_cast<int>(at), from - 2), 0);
  return {first, fminf(at - float(first), 1.f)};
}

// The pixels around a sample: above it and below.
template <bool kWords>
struct Around {
  TwoPixels<kWords> above, below;
  float across;  // share of the second pixel of each

  __device__ static Around read(PreprocessArguments const& a, int64_t n, Placement const& p, Between const& down,
                                int column) {
    Between const place = between(column, p.width, p.wide);
    uint8_t const* const upper = a.images.line(n, p.top + down.first) + 3 * int64_t(p.left + place.first);
    bool const single = p.width == 1;
    return {TwoPixels<kWords>::read(upper, single),
            TwoPixels<kWords>::read(upper + (p.height > 1 ? a.images.row : 0), single), place.share};
  }

  __device__ Levels sample(float down) const {
    Levels levels{};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      float const top = (1.f - across) * above[c] + across * above[3 + c];
      float const bottom = (1.f - across) * below[c] + across * below[3 + c];
      levels.value[c] = (1.f - down) * top + down * bottom;
    }
    return levels;
  }
};

template <class T>
__device__ void store_pair(T* at, float first, float second) {
  Vec<T, 2> const pair{{from_float<T>(first), from_float<T>(second)}};
  if constexpr (sizeof(T) == 2) {
    __stcs(reinterpret_cast<unsigned*>(at), *reinterpret_cast<unsigned const*>(&pair));
  } else {
    __stcs(reinterpret_cast<float2*>(at), *reinterpret_cast<float2 const*>(&pair));
  }
}

// Two results side by side. paired: both are within the result, and lie where a pair may.
template <class T>
__device__ void write_pair(PreprocessArguments const& a, Canvas<T> canvas, int64_t n, int y, int x, bool paired,
                           Levels const (&levels)[2]) {
  if (!paired) {
    write(a, canvas, n, y, x, levels[0]);
    if (x + 1 < a.out_w) write(a, canvas, n, y, x + 1, levels[1]);
  } else if (!a.channels_last || a.results == 1) {
#pragma unroll
    for (int i = 0; i < kMostChannels; ++i) {
      if (i < a.results) store_pair(canvas.data + canvas.place(a, n, y, x, i), levels[0].value[i], levels[1].value[i]);
    }
  } else {
    T* const at = canvas.data + canvas.place(a, n, y, x, 0);
    store_pair(at, levels[0].value[0], levels[0].value[1]);
    store_pair(at + 2, levels[0].value[2], levels[1].value[0]);
    store_pair(at + 4, levels[1].value[1], levels[1].value[2]);
  }
}

template <class T, bool kWords>
__global__ void __launch_bounds__(kPairColumns* kPairRows) preprocess_pairs_kernel(PreprocessArguments a,
                                                                                   Canvas<T> canvas, bool paired) {
  int const x = 2 * (static_cast<int>(blockIdx.x) * kPairColumns + static_cast<int>(threadIdx.x));
  for (int64_t n = blockIdx.z; n < a.batch; n += gridDim.z) {
    __syncthreads();  // the placement of the image before is no longer read
    Placement const& p = shared_placement(a, n);
    for (int y = static_cast<int>(blockIdx.y) * kPairRows + static_cast<int>(threadIdx.y); y < a.out_h;
         y += static_cast<int>(gridDim.y) * kPairRows) {
      if (x >= a.out_w) break;
      bool const inside = p.right && y >= p.row && y - p.row < p.high;
      Between const down = inside ? between(y - p.row, p.height, p.high) : Between{};
      int const column = x - p.column;
      Levels levels[2] = {around(a, p.right), around(a, p.right)};
      if (inside && column >= 0 && column + 1 < p.wide) {  // both: all is read before anything is computed
        auto const first = Around<kWords>::read(a, n, p, down, column);
        auto const second = Around<kWords>::read(a, n, p, down, column + 1);
        levels[0] = finished(a, first.sample(down.share)), levels[1] = finished(a, second.sample(down.share));
      } else if (inside) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (column + i < 0 || column + i >= p.wide) continue;
          levels[i] = finished(a, Around<kWords>::read(a, n, p, down, column + i).sample(down.share));
        }
      }
      write_pair(a, canvas, n, y, x, paired, levels);
    }
  }
}

// Whether aligned words around any of its pixels lie in the memory of the images.
inline bool whole_words(PreprocessArguments const& a) {
  Plane const& plane = a.images;
  int64_t const end = (a.batch - 1) * plane.image + (a.height - 1) * plane.row + 3 * int64_t(a.width);
  return aligned(plane.data, 4) && end % 4 == 0;
}

inline bool takes_pairs(PreprocessArguments const& a) {
  return a.filter == Filter::kBilinear && !a.antialias && a.channels == 3 && a.images.pixel == 3 &&
         a.images.channel == 1;
}

template <class T>
cudaError_t launch_preprocess_pairs(PreprocessArguments const& a, Canvas<T> canvas, cudaStream_t stream) {
  auto const limited = [](int64_t blocks) { return static_cast<unsigned>(blocks < kMaxGridY ? blocks : kMaxGridY); };
  dim3 const grid(static_cast<unsigned>(ceil_divide(a.out_w, 2 * kPairColumns)),
                  limited(ceil_divide(a.out_h, kPairRows)), limited(a.batch));
  bool const paired = a.out_w % 2 == 0 && aligned(canvas.data, 2 * sizeof(T));
  auto kernel = whole_words(a) ? preprocess_pairs_kernel<T, true> : preprocess_pairs_kernel<T, false>;
  kernel<<<grid, dim3(kPairColumns, kPairRows), 0, stream>>>(a, canvas, paired);
  return cudaGetLastError();
}

}  // namespace bridge
