// The kernel of preprocess for packed pixels of three bytes that are resized bilinearly, without a change of colours
// but their order: a thread computes two pixels side by side in some rows. Offsets in an image are 32 bits, and little
// is computed for a pixel beside what it needs, for instructions are as scarce as memory.
#pragma once

#include "kernels/image/preprocess_pairs.cuh"

namespace bridge {

// One image as aligned words; offsets in bytes count from the first word.
struct ImageWords {
  uint32_t const* words;
  uint32_t first;  // offset of the image's first byte

  __device__ static ImageWords of(Plane const& plane, int64_t n) {
    uintptr_t const address = reinterpret_cast<uintptr_t>(plane.line(n, 0));
    return {reinterpret_cast<uint32_t const*>(address & ~uintptr_t(3)), static_cast<uint32_t>(address & 3)};
  }
  // Six bytes.
  __device__ TwoPixels<true> read(uint32_t offset) const {
    uint32_t const a = __ldg(words + offset / 4), b = __ldg(words + offset / 4 + 1),
                   c = __ldg(words + (offset + 5) / 4);
    return {__funnelshift_r(a, b, 8 * (offset & 3)), __funnelshift_r(b, c, 8 * (offset & 3))};
  }
};

// Shares of the four pixels around a sample.
struct Shares {
  float above[2], below[2];

  __device__ static Shares of(float across, float down) {
    float const last = across * down, first = 1.f - across;
    return {{first - (down - last), across - last}, {down - last, last}};
  }
  __device__ float level(TwoPixels<true> const& upper, TwoPixels<true> const& lower, int c) const {
    float const sum = fmaf(above[1], upper[3 + c], above[0] * upper[c]);
    return fmaf(below[1], lower[3 + c], fmaf(below[0], lower[c], sum));
  }
};

// The columns of two results side by side: where their samples begin in a row of the image, and the shares.
struct TwoColumns {
  uint32_t offset[2];
  float across[2];

  __device__ TwoColumns(Placement const& p, uint32_t first, int column) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      Between const place = between(column + i, p.width, p.across);
      offset[i] = first + 3 * static_cast<uint32_t>(p.left + place.first), across[i] = place.share;
    }
  }
};

// What becomes of the channels as they stand in the image.
struct ChannelMap {
  float factor[3], shift[3];
  bool rounded, reversed;

  __device__ explicit ChannelMap(PreprocessArguments const& a) : rounded(a.rounded), reversed(a.reversed) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      factor[c] = reversed ? a.factor[2 - c] : a.factor[c], shift[c] = reversed ? a.shift[2 - c] : a.shift[c];
    }
  }
  __device__ void apply(Levels (&levels)[2]) const {
    if (rounded) {
#pragma unroll
      for (int i = 0; i < 6; ++i) levels[i / 3].value[i % 3] = rounded_level(levels[i / 3].value[i % 3]);
    }
#pragma unroll
    for (int i = 0; i < 6; ++i) levels[i / 3].value[i % 3] = finished(levels[i / 3].value[i % 3], i % 3);
  }
  __device__ float finished(float level, int channel) const { return fmaf(level, factor[channel], shift[channel]); }
};

// The two columns of one row.
__device__ inline void resize_two(PreprocessArguments const& a, Placement const& p, ImageWords const& image,
                                  TwoColumns const& columns, int row, Levels (&levels)[2]) {
  Between const down = between(row, p.height, p.down);
  auto const pitch = static_cast<uint32_t>(a.images.row);
  uint32_t const upper = static_cast<uint32_t>(p.top + down.first) * pitch;
  uint32_t const lower = p.height > 1 ? upper + pitch : upper;
  TwoPixels<true> const above[2] = {image.read(columns.offset[0] + upper), image.read(columns.offset[1] + upper)};
  TwoPixels<true> const below[2] = {image.read(columns.offset[0] + lower), image.read(columns.offset[1] + lower)};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    Shares const shares = Shares::of(columns.across[j], down.share);
#pragma unroll
    for (int c = 0; c < 3; ++c) levels[j].value[c] = shares.level(above[j], below[j], c);
  }
}

// rows: of a thread.
template <class T>
__global__ void __launch_bounds__(kPairColumns* kPairRows, 4) preprocess_packed_kernel(PreprocessArguments a,
                                                                                       Canvas<T> canvas, bool paired,
                                                                                       int rows) {
  __shared__ Placement box;
  int const x = 2 * (static_cast<int>(blockIdx.x) * kPairColumns + static_cast<int>(threadIdx.x));
  int const first_y = static_cast<int>(blockIdx.y) * rows * kPairRows + static_cast<int>(threadIdx.y);
  ChannelMap const map(a);
  int64_t const plane = int64_t(a.out_h) * a.out_w, step = map.reversed ? -plane : plane;
  for (int64_t n = blockIdx.z; n < a.batch; n += gridDim.z) {
    Placement const& p = block_placement(a, n, box);
    if (x >= a.out_w) continue;
    int const column = x - p.column;
    bool const both = p.right && p.width > 1 && column >= 0 && column + 1 < p.wide;
    ImageWords const image = ImageWords::of(a.images, n);
    TwoColumns const columns(p, image.first, both ? column : 0);
    T* const first_plane = canvas.data + (3 * n + (map.reversed ? 2 : 0)) * plane + x;
#pragma unroll 1
    for (int i = 0; i < rows; ++i) {
      int const y = first_y + i * kPairRows, row = y - p.row;
      if (y >= a.out_h) break;
      if (!both || row < 0 || row >= p.high) {
        pair_of_results<T, BytesAround, BytesAround>(a, canvas, n, p, y, x, paired);
        continue;
      }
      Levels levels[2];
      resize_two(a, p, image, columns, row, levels);
      map.apply(levels);
      if (paired && !a.channels_last) {
        T* const at = first_plane + y * a.out_w;
#pragma unroll
        for (int c = 0; c < 3; ++c) store_pair(at + c * step, levels[0].value[c], levels[1].value[c]);
      } else {
        write_pair(a, canvas, n, y, x, paired, {in_order(map.reversed, levels[0]), in_order(map.reversed, levels[1])});
      }
    }
  }
}

inline bool takes_packed(PreprocessArguments const& a) {
  int64_t const bytes = (a.height - 1) * a.images.row + 3 * int64_t(a.width);
  return takes_pairs(a) && whole_words(a) && a.results == 3 && bytes < (int64_t(1) << 31);
}

template <class T>
cudaError_t launch_preprocess_packed(PreprocessArguments const& a, Canvas<T> canvas, cudaStream_t stream) {
  // Rows of one thread share what is computed of their columns, as long as there are threads for the whole GPU.
  constexpr int64_t kManyBlocks = 4096;
  dim3 grid = pairs_grid(a, kPairRows);
  int rows = 1;
  while (rows < 4 && int64_t(grid.x) * grid.y * grid.z >= kManyBlocks * rows) rows *= 2;
  grid = pairs_grid(a, rows * kPairRows);
  auto kernel = preprocess_packed_kernel<T>;
  kernel<<<grid, dim3(kPairColumns, kPairRows), 0, stream>>>(a, canvas, may_pair(a, canvas), rows);
  return cudaGetLastError();
}

}  // namespace bridge
