// Non-maximum suppression of boxes. They are put in order of their scores, and blocks take chunks of that order. A
// block compares its chunk with the boxes that earlier chunks keep, as soon as those are known, and then settles the
// chunk itself: no more pairs are compared than kept boxes have, and no matrix of pairs is stored. Rounding is spelt
// out: overlaps are those of a CPU, on which whether two boxes suppress each other must not depend.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "kernels/common/vec.cuh"

namespace bridge {

constexpr int kNmsRankThreads = 256;
constexpr int kNmsWord = 64;                        // boxes of a word of bits
constexpr int kNmsChunk = 256;                      // boxes of a block
constexpr int kNmsWords = kNmsChunk / kNmsWord;     // of a chunk
constexpr int kNmsThreads = kNmsChunk * kNmsWords;  // one for each box and word
constexpr int64_t kNmsMostBoxes = 1 << 19;          // ranks take as many comparisons as there are pairs

template <class T, class S>
struct NmsArguments {
  T const* boxes;     // [count, 4]: x1, y1, x2, y2
  S const* scores;    // [count]
  int64_t* kept;      // [count], of which the first num_kept are written: indices by decreasing score
  int64_t* num_kept;  // []
  int count;
  float threshold;  // boxes that overlap more are dropped

  __host__ __device__ int chunks() const { return (count + kNmsChunk - 1) / kNmsChunk; }
};

// Overlaps are float32: they exceed a double just where they exceed the largest float that it is not below.
inline float nms_threshold(double threshold) {
  auto const near = static_cast<float>(threshold);
  return double(near) > threshold ? std::nextafterf(near, -INFINITY) : near;
}

// How far the blocks are. `settled` counts chunks in its upper half, and the boxes that those keep in its lower one.
struct NmsProgress {
  unsigned long long settled;
  int next;  // chunk that no block has taken
};

// Scratch memory, in order: boxes by decreasing score, those that are kept, what blocks tell each other, and indices.
struct NmsScratch {
  float4* boxes;          // [count]
  float4* kept;           // [count]
  NmsProgress* progress;  // []
  int* order;             // [count]

  static size_t bytes(int64_t count) {
    constexpr size_t kBox = 2 * sizeof(float4) + sizeof(int);  // named: nvcc 13.0 loses the parentheses of such a sum
    return (Size(count) * kBox + sizeof(NmsProgress)).bytes();
  }
  NmsScratch(void* memory, int64_t count)
      : boxes(static_cast<float4*>(memory)),
        kept(boxes + count),
        progress(reinterpret_cast<NmsProgress*>(kept + count)),
        order(reinterpret_cast<int*>(progress + 1)) {}
};

constexpr uint32_t kNmsNoKey = 0xffffffffu;  // comes after all scores

// A number that orders scores as nms does: smaller for greater ones, and 0 for NaN, which comes first.
__device__ inline uint32_t nms_key(float score) {
  if (isnan(score)) return 0;
  uint32_t const bits = __float_as_uint(score == 0.f ? 0.f : score);  // zeros are equal, whatever their sign
  return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

// A box's place in the order is the number of boxes before it: as many comparisons as there are pairs, and no sorting.
// Equal scores stay in the order in which they stand.
template <class T, class S>
__global__ void __launch_bounds__(kNmsRankThreads) nms_rank_kernel(NmsArguments<T, S> a, NmsScratch scratch) {
  __shared__ uint32_t keys[kNmsRankThreads];  // of the boxes compared with at a time
  if (blockIdx.x == 0 && threadIdx.x == 0) *scratch.progress = {};
  int const thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x) * kNmsRankThreads;
  int const i = block + thread;
  auto key = [&](int box) { return box < a.count ? nms_key(to_float(a.scores[box])) : kNmsNoKey; };
  uint32_t const own = key(i);
  int place = 0;
  for (int first = 0; first < a.count; first += kNmsRankThreads) {
    __syncthreads();
    keys[thread] = key(first + thread);
    __syncthreads();
    uint32_t const limit =
        own + (first < block && i < a.count);  // where scores are equal, what stands before comes first
#pragma unroll 16
    for (int j = 0; j < kNmsRankThreads; ++j) place += keys[j] < limit;
    if (first != block) continue;
    for (int j = 0; j < thread; ++j) place += keys[j] == own;
  }
  if (i >= a.count) return;
  T const* const box = a.boxes + int64_t(i) * 4;
  scratch.order[place] = i;
  scratch.boxes[place] = make_float4(to_float(box[0]), to_float(box[1]), to_float(box[2]), to_float(box[3]));
}

__device__ inline float nms_area(float4 box) { return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y)); }

// Whether the intersection over union of two boxes is above the threshold. It is not a number, which is above none, for
// two boxes without area.
__device__ inline bool nms_overlap(float4 a, float4 b, float threshold) {
  float const width = fmaxf(__fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x)), 0.f);
  float const height = fmaxf(__fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y)), 0.f);
  float const both = __fmul_rn(width, height);
  if (both == 0.f && threshold >= 0.f) return false;
  return __fdiv_rn(both, __fsub_rn(__fadd_rn(nms_area(a), nms_area(b)), both)) > threshold;
}

__device__ inline unsigned long long nms_acquire(unsigned long long const* from) {
  unsigned long long value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
__device__ inline void nms_release(unsigned long long* to, unsigned long long value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

struct NmsShared {
  float4 own[kNmsChunk], kept[kNmsChunk];  // boxes of the chunk; kept ones that it is compared with
  uint64_t drops[kNmsWords][kNmsChunk];    // which boxes of the chunk's words a box of it drops
  uint64_t stays[kNmsWords];               // the chunk's boxes that are not dropped yet
  unsigned long long settled;
  int chunk;
};

// All bits of a warp's lanes.
__device__ inline uint64_t nms_any_lane(uint64_t bits) {
  for (int distance = 1; distance < 32; distance *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, distance);
  return bits;
}

// By one warp: of a chunk's boxes that stay so far, those that none of the others before them drops.
__device__ inline void nms_settle(NmsShared& shared) {
  int const lane = static_cast<int>(threadIdx.x % 32);
  for (int word = 0; word < kNmsWords; ++word) {
    uint64_t stays = shared.stays[word];
    uint64_t const* const drops = shared.drops[word] + word * kNmsWord;
#pragma unroll 8
    for (int i = 0; i < kNmsWord; ++i) stays &= stays >> i & 1 ? ~drops[i] : ~uint64_t(0);
    uint64_t const low = stays >> lane & 1 ? ~uint64_t(0) : 0, high = stays >> (lane + 32) & 1 ? ~uint64_t(0) : 0;
    __syncwarp();
    if (lane == 0) shared.stays[word] = stays;
    for (int later = word + 1; later < kNmsWords; ++later) {
      uint64_t const* const column = shared.drops[later] + word * kNmsWord;
      uint64_t const dropped = nms_any_lane((low & column[lane]) | (high & column[lane + 32]));
      if (lane == 0) shared.stays[later] &= ~dropped;
    }
    __syncwarp();
  }
}

// Thread: x over the chunk's boxes, then over parts, which share the boxes that each one is compared with. Blocks take
// chunks in the order in which they begin, so that none waits for one that has not begun.
template <class T, class S>
__global__ void __launch_bounds__(kNmsThreads) nms_kernel(NmsArguments<T, S> a, NmsScratch scratch) {
  __shared__ NmsShared shared;
  int const box = static_cast<int>(threadIdx.x) % kNmsChunk, part = static_cast<int>(threadIdx.x) / kNmsChunk;
  if (threadIdx.x == 0) shared.chunk = atomicAdd(&scratch.progress->next, 1);
  if (threadIdx.x < kNmsWords) shared.stays[threadIdx.x] = 0;
  __syncthreads();
  int const chunk = shared.chunk, first = chunk * kNmsChunk, size = min(kNmsChunk, a.count - first);
  float4 const own = box < size ? scratch.boxes[first + box] : make_float4(0.f, 0.f, 0.f, 0.f);
  if (part == 0) shared.own[box] = own;
  __syncthreads();

  uint64_t drops = 0;
  for (int i = 0; i < kNmsWord; ++i) {
    int const other = part * kNmsWord + i;
    if (other > box && other < size) drops |= uint64_t(nms_overlap(own, shared.own[other], a.threshold)) << i;
  }
  shared.drops[part][box] = drops;

  bool stays = box < size;
  int compared = 0, settled = 0, kept = 0;
  while (settled < chunk || compared < kept) {
    __syncthreads();
    if (threadIdx.x == 0 && compared == kept) {
      unsigned long long now;
      do now = nms_acquire(&scratch.progress->settled);
      while (static_cast<int>(now >> 32) == settled);
      shared.settled = now;
    }
    __syncthreads();
    settled = static_cast<int>(shared.settled >> 32), kept = static_cast<int>(shared.settled & 0xffffffffu);
    int const count = min(kNmsChunk, kept - compared);
    // Not by way of the L1, which may hold what was there before.
    if (static_cast<int>(threadIdx.x) < count) shared.kept[threadIdx.x] = __ldcg(scratch.kept + compared + threadIdx.x);
    __syncthreads();
    for (int i = part; stays && i < count; i += kNmsWords) stays = !nms_overlap(shared.kept[i], own, a.threshold);
    compared += count;
  }
  // A box stays if it does for every part: `shared.own` has been read.
  __syncthreads();
  bool* const lost = reinterpret_cast<bool*>(shared.own);
  if (part == 0) lost[box] = box >= size;
  __syncthreads();
  if (!stays) lost[box] = true;
  __syncthreads();
  if (part == 0 && !lost[box])
    atomicOr(reinterpret_cast<unsigned long long*>(&shared.stays[box / kNmsWord]), 1ull << box % kNmsWord);
  __syncthreads();
  if (threadIdx.x < 32) nms_settle(shared);
  __syncthreads();
  uint64_t const word = shared.stays[box / kNmsWord];
  int before = __popcll(word & ((uint64_t(1) << box % kNmsWord) - 1)), found = 0;
  for (int i = 0; i < kNmsWords; ++i) {
    if (i == box / kNmsWord) before += found;
    found += __popcll(shared.stays[i]);
  }
  if (part == 0 && (word >> box % kNmsWord & 1)) {
    scratch.kept[kept + before] = own;
    a.kept[kept + before] = scratch.order[first + box];
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  nms_release(&scratch.progress->settled, (static_cast<unsigned long long>(chunk + 1) << 32) + kept + found);
  if (chunk == a.chunks() - 1) *a.num_kept = kept + found;
}

template <class T, class S>
cudaError_t launch_nms(NmsArguments<T, S> const& a, void* memory, cudaStream_t stream) {
  if (!memory) return cudaErrorInvalidValue;
  NmsScratch const scratch(memory, a.count);
  auto const blocks = static_cast<unsigned>(ceil_divide(a.count, kNmsRankThreads));
  nms_rank_kernel<<<blocks, kNmsRankThreads, 0, stream>>>(a, scratch);
  nms_kernel<<<static_cast<unsigned>(a.chunks()), kNmsThreads, 0, stream>>>(a, scratch);
  return cudaGetLastError();
}

}  // namespace bridge
