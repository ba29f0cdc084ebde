// Results of 16 bits on their way from a warp's sums, as wgmma has them, to memory: by way of shared memory, as
// ResultTile has them. Sums lie in a thread by 8 channels: two side by side of a position, and of another one.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/deformable/deform_conv2d_results.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// Puts four matrices of 8 × 8 results into shared memory, of which a thread holds two side by side. Each lane says
// where 16 bytes are to be: a row or, transposed, a column of matrix lane / 8.
template <bool kTransposed>
__device__ void store_matrices(uint32_t to, uint32_t const (&pair)[4]) {
  if constexpr (kTransposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(pair[0]),
                 "r"(pair[1]), "r"(pair[2]), "r"(pair[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(pair[0]),
                 "r"(pair[1]), "r"(pair[2]), "r"(pair[3])
                 : "memory");
  }
}

template <class T>
__device__ uint32_t result_pair(DeformConv2dActivation const& activation, float first, float second) {
  Vec<T, 2> const pair{from_float<T>(activation(first)), from_float<T>(activation(second))};
  return reinterpret_cast<uint32_t const&>(pair);
}

// first: of the warp's 16 positions, of which a thread's two are 8 apart.
template <bool kPixels, class T, int kPositions, int kChannels>
__device__ void store_distant_pairs(DeformConv2dActivation const& activation,
                                    ResultTile<T, kPositions, kChannels>& tile, int first,
                                    float const (&sum)[kChannels / 2], float const* bias) {  // [kChannels]
  constexpr int kTogether = 4;                                                               // times 16 channels
  int const lane = threadIdx.x % 32, position = first + lane / 8 % 2 * 8, channel = lane / 16 * 8, own = lane % 8;
  uint32_t const to =
      shared_address(kPixels ? &tile.pixel[position + own][channel] : &tile.value[channel + own][position]);
  constexpr uint32_t kStep = kPixels ? 16 * sizeof(T) : 16 * sizeof(tile.value[0]);
#pragma unroll
  for (int begin = 0; begin < kChannels / 16; begin += kTogether) {
    float2 added[2 * kTogether];
#pragma unroll
    for (int i = 0; i < 2 * kTogether; ++i)
      added[i] = *reinterpret_cast<float2 const*>(bias + (2 * begin + i) * 8 + lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      uint32_t pair[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        int const at = 8 * (begin + i) + 2 * j;
        float2 const& more = added[2 * i + j / 2];
        pair[j] = result_pair<T>(activation, sum[at] + more.x, sum[at + 1] + more.y);
      }
      store_matrices<!kPixels>(to + (begin + i) * kStep, pair);
    }
  }
}

template <class T, int kPositions, int kChannels>
__device__ void store_distant_results(DeformConv2dArguments<T> const& a, ResultTile<T, kPositions, kChannels>& tile,
                                      int first, float const (&sum)[kChannels / 2], float const* bias) {
  if (a.y_channels_last) {
    store_distant_pairs<true>(a.activation, tile, first, sum, bias);
  } else {
    store_distant_pairs<false>(a.activation, tile, first, sum, bias);
  }
}

// bias: of the thread's channels, which are 2 of each 8. Its two positions are `position` and the one after it.
template <bool kPixels, class T, int kPositions, int kChannels>
__device__ void store_close_pairs(DeformConv2dActivation const& activation, ResultTile<T, kPositions, kChannels>& tile,
                                  int position, float const (&sum)[kChannels / 2], float const (&bias)[kChannels / 4]) {
#pragma unroll
  for (int i = 0; i < kChannels / 8; ++i) {
    int const channel = i * 8 + threadIdx.x % 4 * 2;
    float value[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) value[j] = sum[4 * i + j] + bias[2 * i + j % 2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      T* const to = kPixels ? &tile.pixel[position + j][channel] : &tile.value[channel + j][position];
      *reinterpret_cast<uint32_t*>(to) = kPixels ? result_pair<T>(activation, value[2 * j], value[2 * j + 1])
                                                 : result_pair<T>(activation, value[j], value[2 + j]);
    }
  }
}

// Writes rows of a tile, kWide positions at a time, which lie together in y. Some rows are on their way at once.
template <class T, int kThreads, int kWide, int kPositions, int kChannels>
__device__ void write_rows(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first, int rows,
                           ResultTile<T, kPositions, kChannels> const& result) {
  constexpr int kVectors = kPositions / kWide, kStep = kThreads / kVectors;
  constexpr int kAll = kChannels / kStep, kMost = kWide == 8 ? 4 : 8, kTogether = kAll < kMost ? kAll : kMost;
  static_assert(kThreads % kVectors == 0 && kChannels % (kStep * kTogether) == 0);
  using Packet = Vec<T, kWide>;
  int const first = threadIdx.x % kVectors * kWide;
  OutputPosition const at = tile_position(a, tiles, kPositions, blockIdx.x, first);
  if (!at.valid) return;  // nor are there any after it
  int64_t const plane = a.out_plane();
  T* const y = a.y_at(at.n, int64_t(at.row) * a.out_width + at.column) + out_first * plane;
  for (int row = threadIdx.x / kVectors; row < rows; row += kStep * kTogether) {
    Packet part[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      part[i] = *reinterpret_cast<Packet const*>(&result.value[row + i * kStep][first]);
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (row + i * kStep < rows) *reinterpret_cast<Packet*>(y + (row + i * kStep) * plane) = part[i];
  }
}

// As write_results, with as many positions at a time as lie together in y.
template <class T, int kThreads, int kPositions, int kChannels>
__device__ void write_half_results(DeformConv2dArguments<T> const& a, PositionTile const& tiles, int64_t out_first,
                                   int64_t out_end, ResultTile<T, kPositions, kChannels> const& result, bool wide) {
  if (a.y_channels_last) return write_pixels<T, kThreads>(a, tiles, out_first, out_end, result, wide);
  int const rows = static_cast<int>(min(int64_t(kChannels), out_end - out_first));
  bool const pairs = (tiles.flat ? a.out_plane() : a.out_width) % 2 == 0 && reinterpret_cast<uintptr_t>(a.y) % 4 == 0;
  if (wide) {
    write_rows<T, kThreads, 8>(a, tiles, out_first, rows, result);
  } else if (pairs) {
    write_rows<T, kThreads, 2>(a, tiles, out_first, rows, result);
  } else {
    write_rows<T, kThreads, 1>(a, tiles, out_first, rows, result);
  }
}

// As write_sums, where a thread's two positions lie side by side.
template <class T, class Product>
__device__ void write_close_sums(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                 PackedOperands<T> const& packed, int group, int tile, Product const& product,
                                 unsigned char* memory, bool wide) {
  if (plan.splits > 1) return write_sums(a, plan, packed, group, tile, product, memory, wide);
  constexpr int kPositions = Product::kPositions, kChannels = Product::kChannels;
  int64_t const first = group * plan.group_out + int64_t(tile) * kChannels, end = (group + 1) * plan.group_out;
  float bias[kChannels / 4];
#pragma unroll
  for (int i = 0; i < kChannels / 4; ++i) {
    int64_t const out = first + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
    bias[i] = a.bias && out < end ? to_float(a.bias[out]) : 0.f;
  }
  Product::synchronize();
  auto& result = *reinterpret_cast<ResultTile<T, kPositions, kChannels>*>(memory);
  int const position = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 * 2;
  if (product.share() == 0 && a.y_channels_last) {
    store_close_pairs<true>(a.activation, result, position, product.product.sum, bias);
  } else if (product.share() == 0) {
    store_close_pairs<false>(a.activation, result, position, product.product.sum, bias);
  }
  Product::synchronize();
  write_half_results<T, Product::kThreads>(a, plan.positions, first, end, result, wide);
}

#endif  // BRIDGE_WGMMA

}  // namespace bridge
