// The kernel of preprocess for many packed images, as preprocess_packed.cuh has them, from compute capability 9.0 on:
// a warp resizes whole rows, which come through a ring. What is known of the columns stands in a table.
#pragma once

#include <algorithm>

#include "core/device.h"
#include "kernels/image/preprocess_packed.cuh"
#include "kernels/image/preprocess_ring.cuh"

namespace bridge {

constexpr int kStreamMostWarps = 8;
constexpr int kStreamPairBytes = 16;  // of what is known of two columns

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

constexpr float kByteUnit = 8388608.f;  // 2^23, which a byte is added to: see float_of_byte
constexpr uint32_t kOutside = 1u << 31;

// A byte of six as a float, and 2^23.
__device__ inline float raised_byte(uint32_t low, uint32_t high, int i) {
  return __uint_as_float(__byte_perm(i < 4 ? low : high, 0x4B000000u, 0x7540u + i % 4));
}

// Two columns side by side: where their samples begin in a row of the ring, and the share of the second pixel. Columns
// outside the image are marked.
struct alignas(kStreamPairBytes) StreamColumns {
  uint32_t offset[2];
  float across[2];

  __device__ static StreamColumns of(PreprocessArguments const& a, RowSpan const& span, int x) {
    StreamColumns columns;
    Placement const& p = a.whole;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int const column = min(x + i, a.out_w - 1) - p.column, nearest = max(min(column, p.wide - 1), 0);
      Between const place = between(nearest, p.width, p.across);
      auto const offset = static_cast<uint32_t>(3 * (p.left + place.first) - span.begin);
      columns.offset[i] = offset | (column == nearest ? 0 : kOutside), columns.across[i] = place.share;
    }
    return columns;
  }
};

// Channels of one pixel of a row, between it and the next one where kAcross.
template <bool kAcross>
__device__ void sample_row(unsigned char const* row, uint32_t offset, float across, float (&level)[3]) {
  auto const* const words = reinterpret_cast<uint32_t const*>(row + (offset & ~(kOutside | 3)));
  uint32_t const bits = 8 * offset;  // of which five count
  uint32_t const low = __funnelshift_r(words[0], words[1], bits);
  uint32_t const high = kAcross ? __funnelshift_r(words[1], words[2], bits) : 0;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    float const first = raised_byte(low, high, c);
    level[c] = first - kByteUnit;
    if (kAcross) level[c] = fmaf(across, raised_byte(low, high, 3 + c) - first, level[c]);
  }
}

// Rows of the ring, of which kDown says that the lower one counts: so much of it.
struct RowsAround {
  unsigned char const *upper, *lower;
  float down;
};

template <bool kAcross, bool kDown>
__device__ void resize_pair(RowsAround const& rows, StreamColumns const& columns, Levels (&levels)[2]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    sample_row<kAcross>(rows.upper, columns.offset[j], columns.across[j], levels[j].value);
    if (!kDown) continue;
    float below[3];
    sample_row<kAcross>(rows.lower, columns.offset[j], columns.across[j], below);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      float& level = levels[j].value[c];
      level = fmaf(rows.down, below[c] - level, level);
    }
  }
}

template <class T>
struct StreamRows {
  PreprocessArguments const& a;
  Canvas<T> canvas;
  StreamColumns const* table;
  ChannelMap map;
  bool paired, plain;  // plain: planes of pairs, all within the image
  int64_t step;        // from a plane to that of the next channel

  __device__ StreamRows(PreprocessArguments const& a, Canvas<T> canvas, StreamColumns const* table, bool paired)
      : a(a), canvas(canvas), table(table), map(a), paired(paired), step(int64_t(a.out_h) * a.out_w) {
    bool const whole = a.whole.column <= 0 && a.whole.column + a.whole.wide >= a.out_w;
    plain = paired && whole && !a.channels_last && !map.rounded, step = map.reversed ? -step : step;
  }
  static __device__ int first_column() { return 2 * (threadIdx.x % 32); }

  template <bool kAcross, bool kDown>
  __device__ void resize_plain(RowWalk const& walk, RowsAround const& rows) const {
    T* const at = canvas.data + canvas.place(a, walk.n, walk.y, 0, map.reversed ? 2 : 0);
#pragma unroll 2
    for (int x = first_column(); x < a.out_w; x += 64) {
      Levels levels[2];
      resize_pair<kAcross, kDown>(rows, table[x / 2], levels);
#pragma unroll
      for (int c = 0; c < 3; ++c)
        store_pair(at + c * step + x, map.finished(levels[0].value[c], c), map.finished(levels[1].value[c], c));
    }
  }
  __device__ void resize_any(RowWalk const& walk, RowsAround const& rows) const {
    for (int x = first_column(); x < a.out_w; x += 64) {
      StreamColumns const columns = table[x / 2];
      Levels levels[2] = {around(a, true), around(a, true)};
      if (walk.within()) {
        Levels resized[2];
        resize_pair<true, true>(rows, columns, resized);
        map.apply(resized);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (!(columns.offset[j] & kOutside)) levels[j] = in_order(map.reversed, resized[j]);
        }
      }
      write_pair(a, canvas, walk.n, walk.y, x, paired, levels);
    }
  }
  // across: whether any sample lies between columns.
  __device__ void resize(RowWalk const& walk, RowsAround const& rows, bool across) const {
    if (!plain) {
      resize_any(walk, rows);
    } else if (walk.both) {
      across ? resize_plain<true, true>(walk, rows) : resize_plain<false, true>(walk, rows);
    } else {
      across ? resize_plain<true, false>(walk, rows) : resize_plain<false, false>(walk, rows);
    }
  }
};

// Every so many rows of the block, by each of its warps.
template <class T>
__device__ void resize_rows(StreamRows<T> const& rows, Ring const& ring, bool across) {
  RowPair pair{ring};
  int turn = static_cast<int>(threadIdx.x) / 32;
  for (RowWalk walk(rows.a, ring.plan.rows); walk.left > 0; walk.advance()) {
    pair.advance(walk.find());
    if (--turn >= 0) continue;
    turn = ring.plan.warps - 1;
    if (!walk.within()) {
      rows.resize_any(walk, {});
      pair.give_back(pair.next);
      continue;
    }
    RingPlace const above = walk.both || walk.last > walk.first ? pair.before : pair.last;
    pair.give_back(above);
    rows.resize(walk, {pair.row(above), pair.row(pair.last), walk.share}, across);
  }
  pair.give_back(pair.next);  // for rows of other warps, which may need the slots
}

#endif

template <class T>
__global__ void
    __launch_bounds__(32 * (kStreamMostWarps + 1), 2) preprocess_stream_kernel(PreprocessArguments a, Canvas<T> canvas,
                                                                               bool paired, StreamPlan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char memory[];
  auto* const table = reinterpret_cast<StreamColumns*>(memory);
  Ring const ring{memory + plan.table_bytes, plan};
  RowSpan const span(a);
  bool across = false;
  for (int x = 2 * static_cast<int>(threadIdx.x); x < a.out_w; x += 2 * static_cast<int>(blockDim.x)) {
    StreamColumns const columns = StreamColumns::of(a, span, x);
    table[x / 2] = columns, across |= columns.across[0] > 0.f || columns.across[1] > 0.f;
  }
  if (threadIdx.x == 0) ring.init();
  across = __syncthreads_or(across);
  if (static_cast<int>(threadIdx.x) < 32 * plan.warps) {
    resize_rows(StreamRows<T>(a, canvas, table, paired), ring, across);
  } else if (threadIdx.x % 32 == 0) {
    copy_rows(a, ring);
  }
#else
  __trap();
#endif
}

constexpr int kStreamShared = 224 << 10;  // bytes of a multiprocessor for blocks that run at once
constexpr int kStreamReserved = 1 << 10;  // bytes that a block costs
constexpr int kStreamLeastSlots = 8, kStreamMostSlots = 64;
constexpr int kStreamResidents[] = {4, 2, 1};  // blocks at once, which share the warps: as many as slots allow

// Blocks for the whole GPU, of as many rows each.
inline StreamPlan stream_plan(PreprocessArguments const& a, Device const& device) {
  StreamPlan plan{};
  constexpr int kBarriers = 2 * sizeof(SharedBarrier);
  int const pixels = std::min(static_cast<int>(float(a.out_w) * a.whole.across) + 4, a.whole.width);
  plan.slot_bytes = static_cast<int>(ceil_divide(3 * pixels, 128) + 1) * 128;
  plan.table_bytes = static_cast<int>(ceil_divide(a.out_w, 16)) * 8 * kStreamPairBytes;
  for (int residents : kStreamResidents) {
    int64_t const blocks = int64_t(device.multiprocessors) * residents;
    plan.warps = kStreamMostWarps / residents;
    plan.rows = static_cast<int>(ceil_divide(int64_t(a.batch) * a.out_h, blocks));
    plan.slots = (kStreamShared / residents - kStreamReserved - plan.table_bytes) / (plan.slot_bytes + kBarriers);
    if (plan.slots >= kStreamLeastSlots) break;
  }
  plan.slots = std::min(plan.slots, kStreamMostSlots);
  return plan;
}

// Rows of whole 16 bytes that go through the ring.
inline bool takes_stream(PreprocessArguments const& a, Device const& device) {
  auto const fits = [](int64_t step) { return step > 0 && step % kAccessBytes == 0; };
  Plane const& plane = a.images;
  int64_t const end = (a.batch - 1) * plane.image + (a.height - 1) * plane.row + 3 * int64_t(a.width);
  bool const rows = aligned(plane.data) && fits(plane.image) && fits(plane.row) && end % kAccessBytes == 0;
  return device.capability >= 90 && device.capability < 120 && takes_packed(a) && !a.boxes && a.height > 1 &&
         a.width > 1 && a.batch > 0 && rows && stream_plan(a, device).slots >= kStreamLeastSlots;
}

template <class T>
cudaError_t launch_preprocess_stream(PreprocessArguments const& a, Canvas<T> canvas, Device const& device,
                                     cudaStream_t stream) {
  StreamPlan const plan = stream_plan(a, device);
  auto const kernel = preprocess_stream_kernel<T>;
  int const shared = plan.shared_bytes();
  cudaError_t const status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  auto const blocks = static_cast<unsigned>(ceil_divide(int64_t(a.batch) * a.out_h, plan.rows));
  kernel<<<blocks, 32 * (plan.warps + 1), shared, stream>>>(a, canvas, may_pair(a, canvas), plan);
  return cudaGetLastError();
}

}  // namespace bridge
