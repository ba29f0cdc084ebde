// The tile of deform_roi_pool: what a region reads of some groups of channels, in shared memory, a group's channels of
// a pixel side by side.
#pragma once

#include "kernels/detection/deform_roi_pool_direct.cuh"
#include "kernels/detection/roi_align_table.cuh"

namespace bridge {

constexpr int kDeformRoiAhead = 4;  // taps along x whose pixels a thread has on their way

template <class T>
constexpr int kDeformRoiPacket = kAccessBytes / sizeof(T);  // channels that a thread takes at a time

// What a block knows of its region, in shared memory: registers are few.
struct DeformRoiRegion {
  RoiRegion region;
  int top, left, bottom, right;  // of the pixels that its bins read, inclusive
  int columns, pixels;           // of these in the tile
  int at_once;                   // groups of channels that the tile holds; 0: not even one

  // Shares `groups` among rounds. Rows of the tile begin and end at a multiple of `run` pixels.
  __device__ void share(int groups, int packets, int run) {
    if (right >= 0) left = left / run * run, right = right / run * run + run - 1;
    columns = max(right - left + 1, 0), pixels = columns * max(bottom - top + 1, 0);
    int const most = packets / max(pixels, 1), rounds = most > 0 ? (groups + most - 1) / most : 1;
    at_once = most > 0 ? (groups + rounds - 1) / rounds : 0;
  }
};

// number / divisor of numbers below 2^20, by the divisor's reciprocal.
__device__ inline int quick_quotient(int number, float reciprocal) {
  return static_cast<int>((float(number) + 0.5f) * reciprocal);
}

// Those of a pixel, of runs of pixels in N channels.
template <class T, int N, int kRun>
__device__ Vec<T, N> channels_of(Vec<T, kRun> const (&runs)[N], int pixel) {
  Vec<T, N> packet;
  if constexpr (sizeof(T) == 2 && kRun == 2) {
    unsigned const halves = pixel == 0 ? 0x5410 : 0x7632;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      reinterpret_cast<unsigned*>(&packet)[i / 2] = __byte_perm(reinterpret_cast<unsigned const&>(runs[i]),
                                                                reinterpret_cast<unsigned const&>(runs[i + 1]), halves);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      packet.lane[i] = runs[i].lane[0];
#pragma unroll
      for (int k = 1; k < kRun; ++k)
        if (pixel == k) packet.lane[i] = runs[i].lane[k];
    }
  }
  return packet;
}

// Copies what a region reads of some groups of N channels, from `first` on. A thread takes kRun pixels of kGroups
// groups at a time.
template <int kRun, int kGroups, class T, int N>
__device__ void deform_stage(DeformRoiPoolArguments<T> const& a, DeformRoiRegion const& shared, int first, int groups,
                             Vec<T, N>* tile) {             // [groups, pixels]
  constexpr int kWarp = 32, kPackets = 128 / kAccessBytes;  // that shared memory takes at once
  using Run = Vec<T, kRun>;
  int const columns = shared.columns / kRun, runs = shared.pixels / kRun, chunks = (runs + kWarp - 1) / kWarp;
  float const of_chunks = __frcp_rn(float(chunks)), of_columns = __frcp_rn(float(columns));
  int const lane = threadIdx.x % kWarp, turn = lane * kRun / kPackets;
  int const units = (groups + kGroups - 1) / kGroups * chunks, end = min(first + groups * N, a.channels);
  for (int unit = threadIdx.x / kWarp; unit < units; unit += blockDim.x / kWarp) {
    int const part = quick_quotient(unit, of_chunks), run = (unit - part * chunks) * kWarp + lane;
    if (run >= runs) continue;
    int const row = quick_quotient(run, of_columns), group = part * kGroups, channel = first + group * N;
    T const* from = a.x + (shared.region.image * int64_t(a.channels) + channel) * a.plane() +
                    ((shared.top + row) * a.width + shared.left + (run - row * columns) * kRun);
    Run read[kGroups][N];  // beyond the last channel that again, not used
#pragma unroll
    for (int i = 0; i < kGroups * N; ++i) {
      read[i / N][i % N] = *reinterpret_cast<Run const*>(from);
      if (channel + i + 1 < end) from += a.plane();
    }
#pragma unroll
    for (int i = 0; i < kGroups * kRun; ++i) {
      int const own = (i + turn) % kRun;  // in another order from lane to lane: each has banks of its own
      Vec<T, N>* const to = tile + ((group + i / kRun) * runs + run) * kRun + own;
      if (group + i / kRun < groups) *to = channels_of(read[i / kRun], own);
    }
  }
}

// Adds weight times N channels.
template <class T, int N>
__device__ void add_packet(Vec<T, N> const& packet, float weight, float (&sums)[N]) {
#pragma unroll
  for (int lane = 0; lane < N; ++lane) sums[lane] = fmaf(weight, to_float(packet.lane[lane]), sums[lane]);
}

// Adds N channels of a bin, whose rows of the table are `row` and `column`.
template <class T, int N>
__device__ void deform_add_staged(DeformRoiRegion const& shared, RoiTable const& table, int row, int column,
                                  Vec<T, N> const* tile, float (&sums)[N]) {
  RoiTap const *const ys = table.row(row), *const xs = table.row(column);
  int const num_y = table.counts[row], num_x = table.counts[column];
  uint4 packet[kDeformRoiAhead] = {};  // lanes would be apart where loads depend on conditions
  for (int first = 0; first < num_x; first += kDeformRoiAhead) {
    RoiTap taps[kDeformRoiAhead];
#pragma unroll
    for (int i = 0; i < kDeformRoiAhead; ++i) taps[i] = first + i < num_x ? xs[first + i] : RoiTap{};
#pragma unroll 1
    for (int iy = 0; iy < num_y; ++iy) {
      RoiTap const y = ys[iy];
      Vec<T, N> const* const line = tile + ((y.pixel - shared.top) * shared.columns - shared.left);
#pragma unroll
      for (int i = 0; i < kDeformRoiAhead; ++i)
        if (first + i < num_x) packet[i] = *reinterpret_cast<uint4 const*>(line + taps[i].pixel);
#pragma unroll
      for (int i = 0; i < kDeformRoiAhead; ++i) {
        if (first + i < num_x)
          add_packet(reinterpret_cast<Vec<T, N> const&>(packet[i]), y.weight * taps[i].weight, sums);
      }
    }
  }
}

}  // namespace bridge
