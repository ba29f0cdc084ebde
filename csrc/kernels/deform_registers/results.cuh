// Results of 16 bits on their way from a warp's sums, as wgmma has them, to memory: by way of shared memory, as
// ResultTile has them. Sums lie in a thread by 8 channels: two side by side of a position, and of another one.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/deformable/deform_conv2d_results.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

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

// As write_sums, where a thread's two positions lie side by side.
template <class T, class Product>
__device__ void write_close_sums(DeformConv2dArguments<T> const& a, DeformConv2dPlan const& plan,
                                 PackedOperands<T> const& packed, int group, int tile, Product const& product,
                                 unsigned char* memory, int wide) {
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
  write_results<T, Product::kThreads>(a, plan.positions, first, end, result, wide);
}

#endif  // BRIDGE_WGMMA

}  // namespace bridge
