// Local correlation: cost[b, (dy, dx), y, x] = sum over c of f1[b, c, y, x] * f2[b, c, y + dy, x + dx] / sqrt(C), and
// flow[b, :, y, x] = the mean of (dx, dy), weighted by the softmax of these costs.
//
// A block computes all displacements of a piece of one row, `32 * P` pixels wide. A warp takes the rows of f2 in turn,
// one dy each; a lane has P neighbouring pixels and, for kColumns values of dx, P * kColumns sums in registers.
// Features are brought into shared memory as float32, some channels at a time; an odd P keeps the lanes on different
// banks.
#pragma once

#include <bridge/core/checked.h>

#include <bridge/kernels/common/vec.cuh>
#include <cfloat>
#include <cmath>

namespace acme_ops {

constexpr int kLanes = 32, kMostWarps = 9, kChannels = 8, kColumns = 9;
constexpr int kMostRadius = 16;

template <class T>
struct CorrArguments {
  T const *f1, *f2;  // [batch, channels, height, width]
  T* cost;           // [batch, (2 ry + 1) * (2 rx + 1), height, width]
  T* flow;           // [batch, 2, height, width], (dx, dy)
  int64_t batch;
  int channels, height, width, ry, rx;
};

// A softmax that is fed one cost at a time: weights are relative to the greatest cost so far.
struct Expectation {
  float most = -FLT_MAX, sum = 0.f, dx = 0.f, dy = 0.f;

  __device__ void add(float cost, float weight_of_it, float of_dx, float of_dy) {
    float const now = fmaxf(most, cost);
    float const old = __expf(most - now), weight = __expf(cost - now);
    most = now;
    sum = sum * old + weight_of_it * weight;
    dx = dx * old + of_dx * weight;
    dy = dy * old + of_dy * weight;
  }
  __device__ void add(float cost, int of_dx, int of_dy) { add(cost, 1.f, float(of_dx), float(of_dy)); }
  __device__ void add(Expectation const& other) { add(other.most, other.sum, other.dx, other.dy); }
};

// Copies channels [first, first + kChannels) of columns [left, left + columns) of a row to shared memory; what is off
// the map is zero.
template <class T>
__device__ void stage(float* shared,   // [kChannels, columns]
                      T const* image,  // [channels, height, width]
                      CorrArguments<T> const& a, int first, int y, int left, int columns, int thread, int threads) {
  int64_t const plane = int64_t(a.height) * a.width;
  for (int i = thread; i < kChannels * columns; i += threads) {
    int const c = first + i / columns, x = left + i % columns;
    bool const inside = c < a.channels && y >= 0 && y < a.height && x >= 0 && x < a.width;
    shared[i] = inside ? bridge::to_float(image[c * plane + int64_t(y) * a.width + x]) : 0.f;
  }
}

template <class T, int P>
__device__ void corr_tile(CorrArguments<T> const& a, int64_t image, int y, int left, float* memory) {
  int const lane = threadIdx.x, warp = threadIdx.y, warps = blockDim.y;
  int const tile = kLanes * P, span = tile + 2 * a.rx, columns = 2 * a.rx + 1;
  int64_t const plane = int64_t(a.height) * a.width, row = int64_t(y) * a.width;
  T const *f1 = a.f1 + image * a.channels * plane, *f2 = a.f2 + image * a.channels * plane;
  float const scale = rsqrtf(float(a.channels));
  float *own = memory, *others = memory + kChannels * (tile + warp * span);  // [kChannels, tile], [kChannels, span]
  Expectation expected[P];

  for (int first_row = -a.ry; first_row <= a.ry; first_row += warps) {
    int const dy = first_row + warp;
    for (int first_column = 0; first_column < columns; first_column += kColumns) {
      float sums[P][kColumns] = {};
      for (int c = 0; c < a.channels; c += kChannels) {
        __syncthreads();
        stage(own, f1, a, c, y, left, tile, warp * kLanes + lane, warps * kLanes);
        if (dy <= a.ry) stage(others, f2, a, c, y + dy, left - a.rx, span, lane, kLanes);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kChannels; ++k) {
          float window[P + kColumns - 1];
#pragma unroll
          for (int i = 0; i < P + kColumns - 1; ++i) {
            int const place = lane * P + first_column + i;
            window[i] = place < span ? others[k * span + place] : 0.f;
          }
#pragma unroll
          for (int p = 0; p < P; ++p) {
            float const feature = own[k * tile + lane * P + p];
#pragma unroll
            for (int i = 0; i < kColumns; ++i) sums[p][i] = fmaf(feature, window[p + i], sums[p][i]);
          }
        }
      }
      if (dy > a.ry) continue;
#pragma unroll
      for (int p = 0; p < P; ++p) {
        int const x = left + lane * P + p;
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          int const column = first_column + i, dx = column - a.rx;
          if (x >= a.width || column >= columns) continue;
          float const cost = sums[p][i] * scale;
          int64_t const channel = image * (2 * a.ry + 1) * columns + int64_t(dy + a.ry) * columns + column;
          a.cost[channel * plane + row + x] = bridge::from_float<T>(cost);
          if (y + dy >= 0 && y + dy < a.height && x + dx >= 0 && x + dx < a.width) expected[p].add(cost, dx, dy);
        }
      }
    }
  }

  __syncthreads();
  auto* parts = reinterpret_cast<Expectation*>(memory);  // [warps, tile]
  for (int p = 0; p < P; ++p) parts[warp * tile + lane * P + p] = expected[p];
  __syncthreads();
  for (int i = warp * kLanes + lane; i < tile && left + i < a.width; i += warps * kLanes) {
    Expectation whole = parts[i];
    for (int other = 1; other < warps; ++other) whole.add(parts[other * tile + i]);
    T* const flow = a.flow + image * 2 * plane + row + left + i;
    flow[0] = bridge::from_float<T>(whole.dx / whole.sum);
    flow[plane] = bridge::from_float<T>(whole.dy / whole.sum);
  }
  __syncthreads();
}

template <class T, int P>
__global__ void corr_kernel(CorrArguments<T> a) {
  extern __shared__ float memory[];
  int const tile = kLanes * P, tiles = (a.width + tile - 1) / tile;
  int64_t const total = a.batch * a.height * tiles;
  for (int64_t i = blockIdx.x; i < total; i += gridDim.x) {
    int64_t const row = i / tiles;
    corr_tile<T, P>(a, row / a.height, int(row % a.height), int(i % tiles) * tile, memory);
  }
}

template <class T, int P>
cudaError_t launch_corr(CorrArguments<T> const& a, cudaStream_t stream) {
  constexpr int kTile = kLanes * P;
  int const rows = 2 * a.ry + 1, passes = (rows + kMostWarps - 1) / kMostWarps, warps = (rows + passes - 1) / passes;
  size_t const staged = sizeof(float) * kChannels * (kTile + warps * (kTile + 2 * a.rx));
  size_t const parts = sizeof(Expectation) * warps * kTile;
  size_t const shared = staged < parts ? parts : staged;
  int64_t const total = a.batch * a.height * bridge::ceil_divide(a.width, kTile);
  auto const blocks = static_cast<unsigned>(total < bridge::kMaxGridX ? total : bridge::kMaxGridX);
  corr_kernel<T, P><<<blocks, dim3(kLanes, warps), shared, stream>>>(a);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_corr(CorrArguments<T> const& a, cudaStream_t stream) {
  if (a.batch == 0 || a.height == 0 || a.width == 0) return cudaSuccess;
  return a.width <= kLanes ? launch_corr<T, 1>(a, stream) : launch_corr<T, 3>(a, stream);
}

}  // namespace acme_ops
