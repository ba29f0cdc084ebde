// Window attention by wgmma, for compute capability 9.0. Two warpgroups multiply, 64 rows each; a third one fetches.
// While a warpgroup computes the weights of one tile of keys, products of the tile before are under way (Shah et al.,
// https://arxiv.org/abs/2407.08608, section 3.2).
#pragma once

#include "kernels/window_attention/results.cuh"
#include "kernels/window_attention/wgmma_copies.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// A thread's two rows.
template <class Tile>
struct WgmmaAttention {
  using T = typename Tile::T;
  static constexpr int kKeyColumns = Tile::kKeys / 8, kChannelColumns = Tile::kHeadDim / 8;
  static constexpr int kSteps = Tile::kRowBytes / 32;  // of a product, in a row of shared memory

  WindowAttentionArguments<T> const& a;
  WgmmaShared<Tile>& shared;
  int warpgroup = threadIdx.x / Tile::kWarpgroup, taken = 0;  // tiles since the block began
  KeyInterval seen[2];
  SoftmaxRows softmax;
  float sum[4 * kChannelColumns], product[4 * kKeyColumns];
  uint32_t weight[kKeyColumns / 2][4];

  __device__ WgmmaAttention(WindowAttentionArguments<T> const& a, WgmmaShared<Tile>& shared) : a(a), shared(shared) {}

  __device__ int row(int half) const { return threadIdx.x / 32 * 16 + 8 * half + threadIdx.x % 32 / 4; }
  __device__ static void release(SharedBarrier& barrier) {
    if (threadIdx.x % 32 == 0) barrier.arrive();
  }
  __device__ static int stage(int tile) { return tile % Tile::kStages; }
  __device__ void wait(int tile, int which) { shared.full[stage(tile)][which].wait(tile / Tile::kStages % 2); }

  __device__ void walk(WgmmaWork<Tile> const& work) {
#pragma unroll
    for (int half = 0; half < 2; ++half) seen[half] = work.rows.keys(row(half));
#pragma unroll
    for (float& each : sum) each = 0.f;
    softmax = SoftmaxRows();
    int const count = work.tiles.end - work.tiles.begin;
    if (count <= 0) return;
    float factor[2];
    int first = work.keys.begin + work.tiles.begin * Tile::kKeys;
    start_products(taken);
    wait_for_wgmma<0>();
    hold_registers(product);
    release(shared.empty[stage(taken)][0]);
    weigh(first, factor);
    pack();
    for (int i = 1; i < count; ++i) {
      first += Tile::kKeys;
      start_products(taken + 1);
      start_sums(taken);
      wait_for_wgmma<1>();
      hold_registers(product);
      release(shared.empty[stage(taken + 1)][0]);
      weigh(first, factor);
      wait_for_wgmma<0>();
      hold_registers(sum);
      release(shared.empty[stage(taken)][1]);
      rescale(factor);
      pack();
      ++taken;
    }
    release(shared.q_empty);
    start_sums(taken);
    wait_for_wgmma<0>();
    hold_registers(sum);
    release(shared.empty[stage(taken++)][1]);
    softmax.finish();
  }

  __device__ void start_products(int tile) {
    wait(tile, 0);
    begin_wgmma();
    uint64_t const q = matrix_descriptor(shared_address(shared.q) + warpgroup * 64 * Tile::kRowBytes);
    uint64_t const k = matrix_descriptor(shared_address(shared.tile[stage(tile)][0]));
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        HalfWgmma<T, Tile::kKeys>::add_shared(product, q + part * (Tile::kRows * Tile::kRowBytes >> 4) + 2 * step,
                                              k + part * (Tile::kKeys * Tile::kRowBytes >> 4) + 2 * step,
                                              part + step > 0);
      }
    }
    commit_wgmma();
  }

  __device__ void start_sums(int tile) {
    wait(tile, 1);
    begin_wgmma();
    uint64_t const v =
        transposed_descriptor(shared_address(shared.tile[stage(tile)][1]), Tile::kKeys * Tile::kRowBytes);
#pragma unroll
    for (int step = 0; step < Tile::kKeys / 16; ++step)
      HalfWgmma<T, Tile::kHeadDim>::add_transposed(sum, weight[step], v + step * (16 * Tile::kRowBytes >> 4));
    commit_wgmma();
  }

  __device__ void weigh(int first, float (&factor)[2]) {
    bool masked = false;
#pragma unroll
    for (KeyInterval const& each : seen) masked |= each.begin > first || each.end < first + Tile::kKeys;
    auto& columns = reinterpret_cast<float (&)[kKeyColumns][4]>(product);
    softmax.weigh(a, columns, seen, KeyRun<Tile::kKeys>{first}, __any_sync(~0u, masked), factor);
  }
  __device__ void rescale(float const (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 4 * kChannelColumns; ++i) sum[i] *= factor[i / 2 % 2];
  }
  __device__ void pack() {
    auto& columns = reinterpret_cast<float (&)[kKeyColumns][4]>(product);
#pragma unroll
    for (int step = 0; step < kKeyColumns / 2; ++step)
      pack_weights<T>(columns[2 * step], columns[2 * step + 1], weight[step]);
  }

  __device__ void write(WgmmaWork<Tile> const& work, AttentionParts const& parts) {
    auto& columns = reinterpret_cast<float (&)[kChannelColumns][4]>(sum);
    auto row_of = [&](int half) { return row(half); };
    if (parts.count > 1) {
      write_part(work.rows, parts, softmax, columns, row_of);
    } else {
      write_rows(work.rows, softmax, columns, row_of);
    }
  }
};

#endif  // BRIDGE_WGMMA

// items: of work, one for each tile of rows and split of its keys. Blocks are as many as run at once.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kResidents) window_attention_wgmma_kernel(
    WindowAttentionArguments<typename Tile::T> a, AttentionParts parts, int items) {
#ifdef BRIDGE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<WgmmaShared<Tile>*>(memory);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x >= Tile::kConsumers) {
    set_registers<Tile::kProducerRegisters, Tile::kLaunchRegisters>();
    WgmmaCopies<Tile> copies{a, shared};
    for (int item = blockIdx.x; item < items; item += gridDim.x) copies.fetch(WgmmaWork<Tile>(a, item, parts.count));
    copies.template tell<0>();
  } else {
    set_registers<Tile::kConsumerRegisters, Tile::kLaunchRegisters>();
    WgmmaAttention<Tile> attention(a, shared);
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
      WgmmaWork<Tile> const work(a, item, parts.count);
      attention.walk(work);
      attention.write(work, parts);
    }
  }
#else
  __trap();
#endif
}

}  // namespace bridge
