// Local response normalisation (Krizhevsky et al., 2012, section 3.3). A thread goes along the channels of one place or
// of a few neighbouring ones, with the squares of a window in registers; each value is read once. Sums are made anew
// for every channel: one that slides would keep the rounding of a large value that has left it.
#pragma once

#include <algorithm>

#include "kernels/common/vec.cuh"

namespace bridge {

template <class T>
struct LocalResponseNormArguments {
  T const* x;  // [batch, channels, places]
  T* y;        // as x
  int64_t batch, places;
  int channels, size;
  float alpha, beta, k;  // alpha: of a sum, not of a mean

  __host__ __device__ int before() const { return size / 2; }
  __host__ __device__ int behind() const { return (size - 1) / 2; }
};

constexpr int kResponseThreads = 256;
constexpr int kResponseAhead = 8;           // channels that are loaded before they are needed
constexpr int kResponseLeastChannels = 32;  // of a thread: it also reads the window around them

template <class T>
__device__ T normalised_response(LocalResponseNormArguments<T> const& a, float value, float sum) {
  // The power of what is not positive is that of pow: 0 for 0, NaN below.
  return from_float<T>(value * __powf(fmaf(a.alpha, sum, a.k), -a.beta));
}

// A run of kLanes places, and channels [first, end) of an image.
template <class T, int kLanes>
struct ResponseRun {
  using Packet = Vec<T, kLanes>;
  T const* x;
  T* y;
  int64_t places;
  int channels;

  __device__ Packet load(int channel) const {
    Packet packet{};
    if (channel >= 0 && channel < channels) packet = *reinterpret_cast<Packet const*>(x + channel * places);
    return packet;
  }
  __device__ void store(int channel, Packet packet) const { *reinterpret_cast<Packet*>(y + channel * places) = packet; }
};

// The window is a ring of values in registers: its places are known at compile time, as kSize steps are unrolled.
template <class T, int kLanes, int kSize>
__device__ void respond_held(LocalResponseNormArguments<T> const& a, ResponseRun<T, kLanes> const& run, int first,
                             int end) {
  using Packet = Vec<T, kLanes>;
  constexpr int kBefore = kSize / 2, kBehind = (kSize - 1) / 2;
  constexpr int kSteps = (kResponseAhead + kSize - 1) / kSize * kSize;  // a multiple of the ring
  Packet ring[kSize];
#pragma unroll
  for (int i = 0; i < kSize - 1; ++i) ring[i] = run.load(first - kBefore + i);
  for (int channel = first; channel < end; channel += kSteps) {
    Packet next[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      if (channel + step < end) next[step] = run.load(channel + step + kBehind);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (channel + step >= end) break;
      ring[(step + kSize - 1) % kSize] = next[step];
      Packet result;
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < kSize; ++i) {
          float const value = to_float(ring[i].lane[lane]);
          sum = fmaf(value, value, sum);
        }
        result.lane[lane] = normalised_response(a, to_float(ring[(step + kBefore) % kSize].lane[lane]), sum);
      }
      run.store(channel + step, result);
    }
  }
}

// Of any size: what a window shares with the one before comes from the L1 cache.
template <class T, int kLanes>
__device__ void respond_reading(LocalResponseNormArguments<T> const& a, ResponseRun<T, kLanes> const& run, int first,
                                int end) {
  for (int channel = first; channel < end; ++channel) {
    float sums[kLanes] = {};
    int const last = min(int64_t(channel) + a.behind(), int64_t(a.channels) - 1);
    for (int other = max(channel - a.before(), 0); other <= last; ++other) {
      auto const packet = run.load(other);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        float const value = to_float(packet.lane[lane]);
        sums[lane] = fmaf(value, value, sums[lane]);
      }
    }
    auto packet = run.load(channel);
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane)
      packet.lane[lane] = normalised_response(a, to_float(packet.lane[lane]), sums[lane]);
    run.store(channel, packet);
  }
}

// Items: runs of places first, then parts of the channels, then images. kSize: 0 for any.
template <class T, int kLanes, int kSize>
__global__ void __launch_bounds__(kResponseThreads) local_response_norm_kernel(LocalResponseNormArguments<T> a,
                                                                               int parts, int part_channels) {
  int64_t const runs = a.places / kLanes, items = a.batch * parts * runs;
  int64_t const step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < items; i += step) {
    int const first = static_cast<int>(i / runs % parts) * part_channels, end = min(first + part_channels, a.channels);
    int64_t const offset = i / runs / parts * a.channels * a.places + i % runs * kLanes;
    ResponseRun<T, kLanes> const run{a.x + offset, a.y + offset, a.places, a.channels};
    if constexpr (kSize > 0) {
      respond_held<T, kLanes, kSize>(a, run, first, end);
    } else {
      respond_reading<T, kLanes>(a, run, first, end);
    }
  }
}

template <class T, int kLanes>
cudaError_t launch_response_runs(LocalResponseNormArguments<T> const& a, bool held, int multiprocessors,
                                 cudaStream_t stream) {
  int64_t const runs = a.batch * (a.places / kLanes), wanted = int64_t(std::max(multiprocessors, 1)) * 1024;
  int64_t const most = std::max(a.channels / kResponseLeastChannels, 1);
  int64_t const parts = std::max<int64_t>(std::min(ceil_divide(wanted, runs), most), 1);
  auto const part_channels = static_cast<int>(ceil_divide(a.channels, parts));
  int64_t const blocks = std::min(ceil_divide(runs * parts, kResponseThreads), kMaxGridX);
  auto kernel = local_response_norm_kernel<T, kLanes, 0>;
  if (held && a.size == 3) kernel = local_response_norm_kernel<T, kLanes, 3>;
  if (held && a.size == 5) kernel = local_response_norm_kernel<T, kLanes, 5>;
  if (held && a.size == 9) kernel = local_response_norm_kernel<T, kLanes, 9>;
  kernel<<<static_cast<unsigned>(blocks), kResponseThreads, 0, stream>>>(a, static_cast<int>(parts), part_channels);
  return cudaGetLastError();
}

// held: with windows in registers, where there is a kernel for their size.
template <class T>
cudaError_t launch_local_response_norm(LocalResponseNormArguments<T> const& a, bool held, int multiprocessors,
                                       cudaStream_t stream) {
  if (a.batch * a.channels * a.places == 0) return cudaSuccess;
  constexpr int kLanes = 8 / sizeof(T);  // more would leave no registers for windows
  bool const wide = a.places % kLanes == 0 && aligned(a.x, kLanes * sizeof(T)) && aligned(a.y, kLanes * sizeof(T));
  return wide ? launch_response_runs<T, kLanes>(a, held, multiprocessors, stream)
              : launch_response_runs<T, 1>(a, held, multiprocessors, stream);
}

}  // namespace bridge
