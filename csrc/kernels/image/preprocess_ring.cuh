// Rows of images in a ring in shared memory, from compute capability 9.0 on. A block computes rows of results; one of
// its threads copies the rows of images that these need, each once and in order, while others resize earlier ones.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/image/preprocess_readers.cuh"

namespace bridge {

// rows: of results, of a block. warps: of a block that resize, each a row of results at a time. slots: rows that the
// ring holds, each slot_bytes apart. table_bytes: what is known of the columns.
struct StreamPlan {
  int rows, warps, slots, slot_bytes, table_bytes;

  __host__ __device__ int shared_bytes() const {
    return table_bytes + slots * (slot_bytes + 2 * int(sizeof(SharedBarrier)));
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

struct Ring {
  unsigned char* memory;
  StreamPlan const& plan;

  // Whether a slot has its row, and whether it may have another.
  __device__ SharedBarrier& full(int slot) const {
    return reinterpret_cast<SharedBarrier*>(memory + plan.slots * plan.slot_bytes)[slot];
  }
  __device__ SharedBarrier& empty(int slot) const { return (&full(0))[plan.slots + slot]; }

  __device__ void init() const {
    for (int i = 0; i < plan.slots; ++i) full(i).init(1), empty(i).init(plan.warps);
    publish_to_wgmma();
  }
};

// Where the n-th row is, for n growing.
struct RingPlace {
  int slot = 0;
  uint32_t phase = 0;

  __device__ void advance(int slots) {
    if (++slot == slots) slot = 0, phase ^= 1;
  }
};

// The rows of results of a block, which may lie in several images, and the rows of these that each is computed of:
// `first`, and where `both`, the one after it.
struct RowWalk {
  PreprocessArguments const& a;
  int left;             // rows of results, with this one
  int n, y, last = -1;  // last: the last row that was needed so far
  int first = 0, both = 0;
  float share = 0.f;  // of the second row

  __device__ RowWalk(PreprocessArguments const& a, int rows) : a(a) {
    int64_t const index = int64_t(blockIdx.x) * rows, all = int64_t(a.batch) * a.out_h;
    left = static_cast<int>(min(int64_t(rows), all - index));
    n = static_cast<int>(index / a.out_h), y = static_cast<int>(index - int64_t(n) * a.out_h);
  }
  __device__ void advance() {
    if (--left, ++y == a.out_h) y = 0, ++n, last = -1;
  }
  __device__ bool within() const { return y >= a.whole.row && y - a.whole.row < a.whole.high; }

  // Finds what this row needs. How many rows that are new, at most 2: the last ones of what it needs.
  __device__ int find() {
    if (!within()) return 0;
    Between const place = between(y - a.whole.row, a.whole.height, a.whole.down);
    first = place.first, share = place.share, both = share > 0.f;
    int const before = last;
    last = max(last, first + both);
    return min(last - before, 1 + both);
  }
};

// The bytes of a row of the image that results need, from a multiple of 16 on.
struct RowSpan {
  int begin, bytes;

  __device__ explicit RowSpan(PreprocessArguments const& a) {
    begin = 3 * pixel(a, 0) / kAccessBytes * kAccessBytes;
    bytes = (3 * (pixel(a, a.out_w - 1) + 2) - begin + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
  }
  __device__ static int pixel(PreprocessArguments const& a, int x) {
    Placement const& p = a.whole;
    return p.left + between(min(max(x - p.column, 0), p.wide - 1), p.width, p.across).first;
  }
};

// Copies the rows that a block needs; by one thread.
__device__ inline void copy_rows(PreprocessArguments const& a, Ring const& ring) {
  RowSpan const span(a);
  RingPlace place;
  for (RowWalk walk(a, ring.plan.rows); walk.left > 0; walk.advance()) {
#pragma unroll 1
    for (int row = walk.find(); row > 0; --row) {
      uint8_t const* const from = a.images.line(walk.n, a.whole.top + walk.last + 1 - row) + span.begin;
      ring.empty(place.slot).wait(place.phase ^ 1);
      ring.full(place.slot).arrive_and_expect(span.bytes);
      copy_bulk(ring.memory + place.slot * ring.plan.slot_bytes, from, span.bytes, ring.full(place.slot));
      place.advance(ring.plan.slots);
    }
  }
}

// The two rows that are needed last, and the first one that a warp has not given back. It waits for every row, of which
// it reads some: so it knows each barrier's phase.
struct RowPair {
  Ring const& ring;
  RingPlace before, last, next, held;

  __device__ void advance(int count) {
#pragma unroll 1
    for (; count > 0; --count) before = last, last = next, next.advance(ring.plan.slots);
  }
  __device__ unsigned char const* row(RingPlace const& place) const {
    ring.full(place.slot).wait(place.phase);
    return ring.memory + place.slot * ring.plan.slot_bytes;
  }
  // All rows before `place`.
  __device__ void give_back(RingPlace const& place) {
    __syncwarp();
#pragma unroll 1
    for (; held.slot != place.slot; held.advance(ring.plan.slots)) {
      row(held);
      if (threadIdx.x % 32 == 0) ring.empty(held.slot).arrive();
    }
  }
};

#endif

}  // namespace bridge
