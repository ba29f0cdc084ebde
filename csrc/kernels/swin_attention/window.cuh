// Attention within windows of up to 64 tokens by mma.sync, from compute capability 8.0 on. A block has one head, whose
// bias its threads hold in registers, and walks windows: the next ones come while one is computed.
#pragma once

#include "kernels/swin_attention/window_logits.cuh"

namespace bridge {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Where windows begin in q and in the result, with edges_of in the lowest bits, as steps of tensors are multiples of 8:
// those of 32 of a block's windows, each by a lane of every warp.
struct SwinPlaces {
  int begin = 0, in, out;  // begin: which of the block's windows lane 0 has

  template <class T>
  __device__ void find(SwinArguments<T> const& a, int index) {
    int const line = index / a.windows.columns, image = line / a.windows.rows;
    SwinPlace const window = {image, line - image * a.windows.rows, index - line * a.windows.columns};
    int const edges = edges_of(a.windows, window);
    in = SwinRows::first(a.q.strides, a.windows, window) | edges;
    out = SwinRows::first(a.out.strides, a.windows, window) | edges;
  }
  __device__ int input(int n) const { return __shfl_sync(~0u, in, n - begin); }
  __device__ int output(int n) const { return __shfl_sync(~0u, out, n - begin); }
  __device__ static int edges_in(int place) { return place & 3; }
  __device__ static int offset_in(int place) { return place & ~3; }
};

template <class Tile, bool kPlain, bool kMasks>
struct SwinWindow {
  using T = typename Tile::T;
  using Logits = SwinLogits<Tile, kPlain>;

  SwinArguments<T> const& a;
  SwinWindowPlan const& plan;
  uint32_t memory;
  int head, first, step, count;  // count: of this block's windows
  SwinRows rows;
  SwinWindowMma<Tile> mma;
  Logits logits;
  SwinPlaces places;

  __device__ SwinWindow(SwinArguments<T> const& a, SwinWindowPlan const& plan, unsigned char* memory)
      : a(a),
        plan(plan),
        memory(shared_address(memory)),
        head(blockIdx.x),
        first(blockIdx.y),
        step(gridDim.y),
        count(window(plan.most - 1) < a.all_windows() ? plan.most : plan.most - 1),
        rows(a, head, 0),
        logits(a, head) {}

  // Of all windows, the n-th of this block.
  __device__ int window(int n) const { return first + n * step; }
  __device__ bool has_chunk(int more) const { return (SwinRows::chunk() + more) * Tile::kInChunk < a.head_dim; }
  __device__ uint32_t after(uint32_t stage) const {
    uint32_t const next = stage + plan.stage_bytes;
    return next == memory + plan.stages * plan.stage_bytes ? memory : next;
  }

  // Keys and values without a token, which stay zeros.
  __device__ void clear() const {
    int const tokens = a.windows.tokens(), bytes = Tile::kKeyBytes - tokens * Tile::kRowBytes;
    for (int i = threadIdx.x * kAccessBytes; i < bytes; i += Tile::kThreads * kAccessBytes) {
      uint32_t const keys = memory + tokens * Tile::kRowBytes + i;
#pragma unroll 1
      for (int n = 0; n < plan.stages; ++n) {
        shared_at<uint4>(keys + n * plan.stage_bytes) = {0, 0, 0, 0};
        shared_at<uint4>(keys + n * plan.stage_bytes + Tile::kKeyBytes) = {0, 0, 0, 0};
      }
    }
  }

  __device__ void find_places(int begin) {
    places.begin = begin;
    places.find(a, window(begin + threadIdx.x % 32));
  }

  // This thread's rows of the n-th window. Channels that head_dim lacks become zeros.
  __device__ void copy(int n, uint32_t stage) {
    if (n - places.begin == 32) find_places(n - (plan.stages - 1));  // the first is the one to be computed next
    int const place = places.input(n);
    if (kMasks && a.mask.data) logits.copy_mask(a, window(n), stage);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!rows.inside[half]) continue;
      int const offset = offset_of(a.q.strides, place, rows.in[half], half);
      uint32_t const to = stage + mma.own + 8 * half * Tile::kRowBytes;
      T const* const from[] = {a.k.data + offset, a.v.data + offset, a.q.data + offset};
#pragma unroll
      for (int more = 0; more < Tile::kChunks; more += 4) {
#pragma unroll
        for (int n = 0; n < 3; ++n)
          copy_line_or_zero(mma.chunks_on(to, more) + n * Tile::kKeyBytes, from[n] + more * Tile::kInChunk,
                            has_chunk(more));
      }
    }
  }
  __device__ int offset_of(SwinStrides const& strides, int place, int row, int half) const {
    int const edges = SwinPlaces::edges_in(place), offset = SwinPlaces::offset_in(place) + row;
    return edges ? offset - rows.around(strides, a.windows, edges, half) : offset;
  }

  __device__ void walk() {
    uint32_t into = memory, from = memory;
    auto const copy_next = [&](int n) {
      if (n < count) copy(n, into);
      commit_copies();
      into = after(into);
    };
    find_places(0);
    for (int n = 0; n < plan.stages - 1; ++n) copy_next(n);
    clear();
    if (!kPlain) __syncthreads();
    logits.prepare(a, rows, head);
    for (int n = 0; n < count; ++n, from = after(from)) {
      if (plan.stages == 2) {
        wait_for_copies_but<0>();
      } else {
        wait_for_copies_but<1>();
      }
      if (!kPlain) logits.find_lengths(a, rows, from, mma.keys);
      __syncthreads();
      copy_next(n + plan.stages - 1);
      if (static_cast<int>(threadIdx.x) / 32 * 16 < a.windows.tokens()) compute(n, from);
    }
  }

  __device__ void compute(int n, uint32_t stage) {
    typename SwinWindowMma<Tile>::Products product;
    typename SwinWindowMma<Tile>::Sums sum = {};
    typename SwinWindowMma<Tile>::Fragments q;
    float total[4] = {};
    mma.load_rows(stage, mma.queries, q);
    if constexpr (kPlain) {
      mma.multiply_keys(q, stage, logits.bias, product);
    } else {
      constexpr typename SwinWindowMma<Tile>::Products kNone = {};
      logits.find_scale(a, q);
      mma.multiply_keys(q, stage, kNone, product);
      logits.scale_and_bias(a, stage, product);
    }
    int const place = places.output(n);
    if (int const edges = SwinPlaces::edges_in(place)) logits.hide(a, edges, product);
    if (kMasks && a.mask.data) logits.add_mask(a, rows, window(n), stage, product);
    logits.weigh(product);
    mma.add_values(product, stage, sum, total);
    mma.stage_results(stage, total, sum);
    write(place, stage);
  }

  __device__ void write(int place, uint32_t stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T* const to = a.out.data + offset_of(a.out.strides, place, rows.out[half], half);
      uint32_t const from = stage + Tile::kQueriesAt + mma.own + 8 * half * Tile::kRowBytes;
#pragma unroll
      for (int more = 0; more < Tile::kChunks; more += 4) {
        uint4 const chunk = shared_at<uint4 const>(mma.chunks_on(from, more));
        uint32_t const word[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
        if (rows.inside[half] && has_chunk(more)) store_chunk(to + more * Tile::kInChunk, word);
      }
    }
  }
};

#endif

// Blocks: heads × shares of their windows.
template <class Tile, int kResidents, bool kPlain, bool kMasks>
__global__ void __launch_bounds__(Tile::kThreads, kResidents) swin_attention_window_kernel(
    SwinArguments<typename Tile::T> a, SwinWindowPlan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kSwinStageUnit) unsigned char stages[];
  SwinWindow<Tile, kPlain, kMasks>(a, plan, stages).walk();
#else
  __trap();
#endif
}

}  // namespace bridge
