// The kernel of preprocess for wide filters: a block computes a tile of the result. The rows that it needs are resized
// along themselves first, some at a time, into shared memory; from there they are added up down the columns.
#pragma once

#include "kernels/image/preprocess_filter.cuh"
#include "kernels/image/preprocess_readers.cuh"

namespace bridge {

constexpr int kTileColumns = 32, kTileThreadRows = 8;  // threads of a block
constexpr int kRowsOfThread = 4, kTileRows = kTileThreadRows * kRowsOfThread;
constexpr int kChunkRows = 16;  // of an image that are resized along themselves at a time
constexpr int kTableTaps = 32;  // weights of a column that are kept; further ones are computed each time

struct TileMemory {
  float weights[kTableTaps][kTileColumns];
  float rows[kChunkRows][kMostChannels][kTileColumns];
};

// What one column of a tile takes of a row.
struct ColumnTaps {
  Axis axis;
  Window window;
  float const (*table)[kTileColumns];

  __device__ float weight(int k) const { return k < kTableTaps ? table[k][threadIdx.x] : axis.weight(window, k); }
};

// Adds packed pixels of three bytes, four at a time. Words are read as far as pixels of the window lie in them.
__device__ inline void add_packed(ColumnTaps const& taps, uint8_t const* line, float (&sums)[kMostChannels]) {
  for (int k = 0; k < taps.window.count; k += 4) {
    uintptr_t const address = reinterpret_cast<uintptr_t>(line + 3 * int64_t(taps.window.first + k));
    auto const* const words = reinterpret_cast<uint32_t const*>(address & ~uintptr_t(3));
    int const start = static_cast<int>(address & 3), end = start + 3 * min(4, taps.window.count - k);
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = 4 * i < end ? __ldg(words + i) : 0u;
#pragma unroll
    for (int i = 0; i < 3; ++i) word[i] = __funnelshift_r(word[i], word[i + 1], 8 * start);
#pragma unroll
    for (int pixel = 0; pixel < 4; ++pixel) {
      float const weight = k + pixel < taps.window.count ? taps.weight(k + pixel) : 0.f;
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        int const byte = 3 * pixel + c;
        sums[c] = fmaf(weight, float_of_byte(word[byte / 4], byte % 4), sums[c]);
      }
    }
  }
}

// The same of any pixels; those beyond the image are the ones at its border.
__device__ inline void add_pixels(PreprocessArguments const& a, ColumnTaps const& taps, uint8_t const* line,
                                  float (&sums)[kMostChannels]) {
  for (int k = 0; k < taps.window.count; ++k) {
    uint8_t const* const pixel = line + int64_t(taps.axis.clamped(taps.window.first + k)) * a.images.pixel;
    float const weight = taps.weight(k);
#pragma unroll
    for (int c = 0; c < kMostChannels; ++c) {
      if (c < a.channels) sums[c] = fmaf(weight, float(__ldg(pixel + c * a.images.channel)), sums[c]);
    }
  }
}

// The rows of a result that one thread computes, `kTileThreadRows` apart.
struct ColumnOfRows {
  Window window[kRowsOfThread];
  float sum[kRowsOfThread][kMostChannels];

  // first, end: the rows of the tile. row: the first one of the thread.
  __device__ ColumnOfRows(Axis const& down, int row, int first, int end) : sum{} {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      int const each = row + i * kTileThreadRows;
      window[i] = each >= first && each < end ? down.window(each) : Window{0, 0, 0.f, 0.f, 1.f};
    }
  }

  // Adds rows from `base` on, which are `count`.
  __device__ void add(Axis const& down, TileMemory const& memory, int base, int count) {
#pragma unroll
    for (int i = 0; i < kRowsOfThread; ++i) {
      int const end = min(window[i].first + window[i].count, base + count);
      for (int y = max(window[i].first, base); y < end; ++y) {
        float const weight = down.weight(window[i], y - window[i].first);
#pragma unroll
        for (int c = 0; c < kMostChannels; ++c) {
          sum[i][c] = fmaf(weight, memory.rows[y - base][c][threadIdx.x], sum[i][c]);
        }
      }
    }
  }
};

template <bool kPacked>
__device__ void resize_rows(PreprocessArguments const& a, int64_t n, Placement const& p, Axis const& down,
                            ColumnTaps const& taps, TileMemory& memory, int base, int count) {
  for (int i = threadIdx.y; i < count; i += kTileThreadRows) {
    uint8_t const* const line = a.images.line(n, p.top + down.clamped(base + i)) + int64_t(p.left) * a.images.pixel;
    float sums[kMostChannels] = {};
    if (kPacked) {
      add_packed(taps, line, sums);
    } else {
      add_pixels(a, taps, line, sums);
    }
#pragma unroll
    for (int c = 0; c < kMostChannels; ++c) memory.rows[i][c][threadIdx.x] = sums[c];
  }
}

// Fills the tile whose first row and column of the result are `top` and `left`.
template <class T, bool kPacked>
__device__ void fill_tile(PreprocessArguments const& a, Canvas<T> canvas, int64_t n, Placement const& p,
                          TileMemory& memory, int top, int left) {
  int const x = left + static_cast<int>(threadIdx.x), column = x - p.column;
  int const first = max(top - p.row, 0), end = min(top + kTileRows - p.row, p.high);
  bool const inside = p.right && column >= 0 && column < p.wide;
  Axis const down(a, p.height, p.high), across(a, p.width, p.wide);
  ColumnTaps const taps{across, inside ? across.window(column) : Window{0, 0, 0.f, 0.f, 1.f}, memory.weights};
  for (int k = threadIdx.y; k < min(taps.window.count, kTableTaps); k += kTileThreadRows) {
    memory.weights[k][threadIdx.x] = across.weight(taps.window, k);
  }
  int const row = top - p.row + static_cast<int>(threadIdx.y);
  ColumnOfRows rows(down, row, first, end);
  if (p.right && first < end) {
    Window const last = down.window(end - 1);
    int const stop = last.first + last.count;
    for (int base = down.window(first).first; base < stop; base += kChunkRows) {
      int const count = min(kChunkRows, stop - base);
      __syncthreads();  // the weights are there, and the rows before are no longer read
      resize_rows<kPacked>(a, n, p, down, taps, memory, base, count);
      __syncthreads();
      rows.add(down, memory, base, count);
    }
  }
  if (x >= a.out_w) return;
#pragma unroll
  for (int i = 0; i < kRowsOfThread; ++i) {
    int const each = row + i * kTileThreadRows, y = each + p.row;
    if (y >= a.out_h) continue;
    Levels levels = around(a, p.right);
    if (inside && each >= first && each < end) {
      float const whole = 1.f / (rows.window[i].total * taps.window.total);
#pragma unroll
      for (int c = 0; c < kMostChannels; ++c) levels.value[c] = rows.sum[i][c] * whole;
      levels = finished(a, levels);
    }
    write(a, canvas, n, y, x, levels);
  }
}

template <class T, bool kPacked>
__global__ void __launch_bounds__(kTileColumns* kTileThreadRows) preprocess_tiles_kernel(PreprocessArguments a,
                                                                                         Canvas<T> canvas) {
  __shared__ Placement box;
  __shared__ TileMemory memory;
  int const left = static_cast<int>(blockIdx.x) * kTileColumns;
  for (int64_t n = blockIdx.z; n < a.batch; n += gridDim.z) {
    Placement const& p = block_placement(a, n, box);
    fill_tile<T, kPacked>(a, canvas, n, p, memory, static_cast<int>(blockIdx.y) * kTileRows, left);
  }
}

inline bool takes_tiles(PreprocessArguments const& a) {
  return (a.filter == Filter::kBilinear || a.filter == Filter::kBicubic) && a.colours != Colours::kYuv;
}

template <class T>
cudaError_t launch_preprocess_tiles(PreprocessArguments const& a, Canvas<T> canvas, cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(ceil_divide(a.out_w, kTileColumns)),
                  static_cast<unsigned>(ceil_divide(a.out_h, kTileRows)),
                  static_cast<unsigned>(a.batch < kMaxGridY ? a.batch : kMaxGridY));
  bool const packed = a.antialias && whole_words(a);
  auto kernel = packed ? preprocess_tiles_kernel<T, true> : preprocess_tiles_kernel<T, false>;
  kernel<<<grid, dim3(kTileColumns, kTileThreadRows), 0, stream>>>(a, canvas);
  return cudaGetLastError();
}

}  // namespace bridge
