// What attention by wgmma does with a tile of keys and one of values, in shared memory: products with 64 queries, and
// sums of values.
#pragma once

#include "kernels/common/wgmma.cuh"
#include "kernels/window_attention/results.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// A thread's two of the 64 rows of its warpgroup, which shares a block with others.
template <class Tile>
struct WgmmaRows {
  using T = typename Tile::T;
  static constexpr int kKeyColumns = Tile::kKeys / 8, kChannelColumns = Tile::kHeadDim / 8;
  static constexpr int kSteps = Tile::kRowBytes / 32;  // of a product, in a row of shared memory

  int warpgroup = same_in_warp(threadIdx.x / Tile::kWarpgroup);
  KeyInterval seen[2];
  SoftmaxRows softmax;
  float sum[4 * kChannelColumns], product[4 * kKeyColumns];
  uint32_t weight[kKeyColumns / 2][4];

  __device__ int row(int half) const { return threadIdx.x / 32 * 16 + 8 * half + threadIdx.x % 32 / 4; }
  __device__ static void release(SharedBarrier& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier.arrive();
  }

  template <class Rows>
  __device__ void begin(Rows const& rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) seen[half] = rows.keys(row(half));
#pragma unroll
    for (float& each : sum) each = 0.f;
    softmax = SoftmaxRows();
  }

  // queries: of all warpgroups.
  __device__ void start_products(unsigned char const* queries, unsigned char const* keys) {
    begin_wgmma();
    uint64_t const q = matrix_descriptor(shared_address(queries) + warpgroup * 64 * Tile::kRowBytes);
    uint64_t const k = matrix_descriptor(shared_address(keys));
#pragma unroll
    for (int step = 0; step < Tile::kHeadDim / 16; ++step) {
      int const part = step / kSteps, offset = 2 * (step % kSteps);
      uint64_t const left = behind(q, part * (Tile::kRows * Tile::kRowBytes >> 4) + offset);
      uint64_t const right = behind(k, part * (Tile::kKeys * Tile::kRowBytes >> 4) + offset);
      HalfWgmma<T, Tile::kKeys>::add_shared(product, left, right, step > 0);
    }
    commit_wgmma();
  }

  __device__ void start_sums(unsigned char const* values) {
    begin_wgmma();
    uint64_t const v = transposed_descriptor(shared_address(values), Tile::kKeys * Tile::kRowBytes);
#pragma unroll
    for (int step = 0; step < Tile::kKeys / 16; ++step)
      HalfWgmma<T, Tile::kHeadDim>::add_transposed(sum, weight[step], behind(v, step * (16 * Tile::kRowBytes >> 4)));
    commit_wgmma();
  }

  // From products to weights. factor: by which earlier sums of values are multiplied.
  template <int kSlack = 0, class Arguments, class Keys>
  __device__ void weigh(Arguments const& a, Keys const& keys, float (&factor)[2]) {
    bool masked = false;
#pragma unroll
    for (KeyInterval const& each : seen) masked |= each.begin > keys.begin() || each.end < keys.end();
    auto& columns = reinterpret_cast<float (&)[kKeyColumns][4]>(product);
    softmax.template weigh<kSlack>(a, columns, seen, keys, __any_sync(~0u, masked), factor);
  }
  __device__ static bool rescales(float const (&factor)[2]) {
    return __any_sync(~0u, factor[0] != 1.f || factor[1] != 1.f);
  }
  __device__ void rescale(float const (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 4 * kChannelColumns; ++i) sum[i] *= factor[i / 2 % 2];
  }
  __device__ void end_sums() {
    wait_for_wgmma<0>();
    hold_registers(sum);
  }
  // The same once weights have been computed, and multiplies the sums by their factor. Waits twice: ptxas moves a wait
  // before the arithmetic of the weights, so that it overlaps with nothing, but not past a branch.
  __device__ void end_sums(float const (&factor)[2]) {
    hold_registers(product);
    if (rescales(factor)) {
      end_sums();
      rescale(factor);
    }
    end_sums();
  }
  __device__ void pack() {
    auto& columns = reinterpret_cast<float (&)[kKeyColumns][4]>(product);
#pragma unroll
    for (int step = 0; step < Tile::kKeys / 16; ++step)
      pack_weights<T>(columns[2 * step], columns[2 * step + 1], weight[step]);
  }

  template <class Rows>
  __device__ void write(Rows const& rows, AttentionParts const& parts) {
    auto& columns = reinterpret_cast<float (&)[kChannelColumns][4]>(sum);
    auto row_of = [&](int half) { return row(half); };
    if (parts.count > 1) {
      write_part(rows, parts, softmax, columns, row_of);
    } else {
      write_rows(rows, softmax, columns, row_of);
    }
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
