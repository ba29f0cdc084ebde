// Non-maximum suppression of boxes: they are put in order of their scores, every pair is compared (a bit each, as
// torchvision's kernel does), and one block then walks down the order. Rounding is spelt out: overlaps are those of a
// CPU, on which whether two boxes suppress each other must not depend.
#pragma once

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "kernels/common/vec.cuh"

namespace bridge {

constexpr int kNmsWord = 64;  // boxes of a word of bits
constexpr int kNmsRankThreads = 256;
constexpr int kNmsScanThreads = 512;
constexpr int64_t kNmsMostBoxes = 1 << 19;  // their bits fit the shared memory of any GPU

template <class T, class S>
struct NmsArguments {
  T const* boxes;     // [count, 4]: x1, y1, x2, y2
  S const* scores;    // [count]
  int64_t* kept;      // [count], of which the first num_kept are written: indices by decreasing score
  int64_t* num_kept;  // []
  int count;
  double threshold;  // boxes that overlap more are dropped

  __host__ __device__ int words() const { return (count + kNmsWord - 1) / kNmsWord; }
};

// Scratch memory, in order: boxes by decreasing score, their indices, and which of them each one drops.
struct NmsScratch {
  float4* boxes;      // [count]
  int* order;         // [count], to a multiple of 4
  uint64_t* dropped;  // [count, words]

  static size_t bytes(int64_t count) {
    Size const dropped = Size(count) * ceil_div(Size(count), kNmsWord) * sizeof(uint64_t);
    return (Size(count) * sizeof(float4) + order_bytes(count) + dropped).bytes();
  }
  static size_t order_bytes(int64_t count) { return (ceil_div(Size(count), 4) * 4 * sizeof(int)).bytes(); }
  NmsScratch(void* memory, int64_t count)
      : boxes(static_cast<float4*>(memory)),
        order(reinterpret_cast<int*>(boxes + count)),
        dropped(reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(order) + order_bytes(count))) {}
};

// Whether the box with score `a` at index `i` comes before the one with `b` at `j`: greater scores first, NaN before
// all, and equal ones as they stand.
__device__ inline bool nms_before(float a, int i, float b, int j) {
  bool const a_nan = isnan(a), b_nan = isnan(b);
  if (a_nan || b_nan) return a_nan && (!b_nan || i < j);
  return a > b || (a == b && i < j);
}

// A box's place in the order is the number of boxes before it: as many comparisons as there are pairs, and no sorting.
template <class T, class S>
__global__ void __launch_bounds__(kNmsRankThreads) nms_rank_kernel(NmsArguments<T, S> a, NmsScratch scratch) {
  __shared__ float scores[kNmsRankThreads];  // of the boxes compared with at a time
  int const i = static_cast<int>(blockIdx.x) * kNmsRankThreads + static_cast<int>(threadIdx.x);
  float const own = i < a.count ? to_float(a.scores[i]) : 0.f;
  int place = 0;
  for (int first = 0; first < a.count; first += kNmsRankThreads) {
    int const other = first + static_cast<int>(threadIdx.x), size = min(kNmsRankThreads, a.count - first);
    __syncthreads();
    if (other < a.count) scores[threadIdx.x] = to_float(a.scores[other]);
    __syncthreads();
    for (int j = 0; j < size; ++j) place += nms_before(scores[j], first + j, own, i);
  }
  if (i >= a.count) return;
  T const* const box = a.boxes + int64_t(i) * 4;
  scratch.order[place] = i;
  scratch.boxes[place] = make_float4(to_float(box[0]), to_float(box[1]), to_float(box[2]), to_float(box[3]));
}

__device__ inline float nms_area(float4 box) { return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y)); }

// Intersection over union; not a number, which is above no threshold, for two boxes without area.
__device__ inline float nms_overlap(float4 a, float4 b) {
  float const width = fmaxf(__fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x)), 0.f);
  float const height = fmaxf(__fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y)), 0.f);
  float const both = __fmul_rn(width, height);
  return __fdiv_rn(both, __fsub_rn(__fadd_rn(nms_area(a), nms_area(b)), both));
}

// A block compares kNmsWord boxes with as many; those that come later alone can be dropped. Grid: x over the others,
// y over the boxes, strided.
template <class T, class S>
__global__ void __launch_bounds__(kNmsWord) nms_compare_kernel(NmsArguments<T, S> a, NmsScratch scratch) {
  __shared__ float4 others[kNmsWord];  // the boxes along x
  int const words = a.words(), first = static_cast<int>(blockIdx.x) * kNmsWord, size = min(kNmsWord, a.count - first);
  if (static_cast<int>(threadIdx.x) < size) others[threadIdx.x] = scratch.boxes[first + threadIdx.x];
  __syncthreads();
  for (int row = static_cast<int>(blockIdx.y); row <= static_cast<int>(blockIdx.x);
       row += static_cast<int>(gridDim.y)) {
    int const i = row * kNmsWord + static_cast<int>(threadIdx.x);
    if (i >= a.count) continue;
    float4 const own = scratch.boxes[i];
    uint64_t bits = 0;
    for (int j = max(0, i + 1 - first); j < size; ++j)
      bits |= uint64_t(double(nms_overlap(own, others[j])) > a.threshold) << j;
    scratch.dropped[int64_t(i) * words + blockIdx.x] = bits;
  }
}

// One block: a word of boxes at a time it finds those that none before has dropped, then drops theirs.
template <class T, class S>
__global__ void __launch_bounds__(kNmsScanThreads) nms_scan_kernel(NmsArguments<T, S> a, NmsScratch scratch) {
  extern __shared__ uint64_t gone[];  // [words]: the boxes dropped so far
  __shared__ uint64_t own[kNmsWord];  // of each box of the word: which others of the word it drops
  __shared__ uint64_t alive;          // the boxes of the word that stay
  int const words = a.words();
  int64_t found = 0;
  for (int i = threadIdx.x; i < words; i += blockDim.x) gone[i] = 0;
  for (int word = 0; word < words; ++word) {
    int const first = word * kNmsWord, size = min(kNmsWord, a.count - first);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < size)
      own[threadIdx.x] = scratch.dropped[int64_t(first + threadIdx.x) * words + word];
    __syncthreads();
    if (threadIdx.x == 0) {
      uint64_t lost = gone[word], kept = 0;
      for (int i = 0; i < size; ++i) {
        if (lost >> i & 1) continue;
        kept |= uint64_t(1) << i;
        lost |= own[i];
      }
      alive = kept;
    }
    __syncthreads();
    uint64_t const kept = alive;
    if (static_cast<int>(threadIdx.x) < size && (kept >> threadIdx.x & 1))
      a.kept[found + __popcll(kept & ((uint64_t(1) << threadIdx.x) - 1))] = scratch.order[first + threadIdx.x];
    found += __popcll(kept);
    for (int later = word + 1 + static_cast<int>(threadIdx.x); later < words; later += blockDim.x) {
      uint64_t bits = gone[later];
      uint64_t const* const column = scratch.dropped + int64_t(first) * words + later;
#pragma unroll 16
      for (int i = 0; i < kNmsWord; ++i) {  // all of them, so that many loads are on their way at once
        if (kept >> i & 1) bits |= column[int64_t(i) * words];
      }
      gone[later] = bits;
    }
  }
  if (threadIdx.x == 0) *a.num_kept = found;
}

template <class T, class S>
cudaError_t launch_nms(NmsArguments<T, S> const& a, void* memory, cudaStream_t stream) {
  if (!memory) return cudaErrorInvalidValue;
  NmsScratch const scratch(memory, a.count);
  auto const words = static_cast<unsigned>(a.words());
  dim3 const pairs(words, static_cast<unsigned>(std::min<int64_t>(words, kMaxGridY)));
  auto const blocks = static_cast<unsigned>(ceil_divide(a.count, kNmsRankThreads));
  size_t const shared = words * sizeof(uint64_t);
  cudaError_t const status = cudaFuncSetAttribute(nms_scan_kernel<T, S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(shared));
  if (status != cudaSuccess) return status;
  nms_rank_kernel<<<blocks, kNmsRankThreads, 0, stream>>>(a, scratch);
  nms_compare_kernel<<<pairs, kNmsWord, 0, stream>>>(a, scratch);
  nms_scan_kernel<<<1, kNmsScanThreads, shared, stream>>>(a, scratch);
  return cudaGetLastError();
}

}  // namespace bridge
