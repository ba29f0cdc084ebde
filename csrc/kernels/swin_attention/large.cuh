// Attention within windows of more than 64 tokens by mma.sync, from compute capability 8.0 on. A block has a tile of
// queries of one head, whose bias it keeps in shared memory, and walks windows. Each of its teams of warps has a window
// at a time, and walks the tiles of its keys while the next ones come.
#pragma once

#include "kernels/swin_attention/large_rows.cuh"

namespace bridge {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class Tile>
struct SwinLarge {
  using T = typename Tile::T;
  static constexpr int kChunks = Tile::kChunks, kGroups = Tile::kGroups;

  SwinArguments<T> const& a;
  SwinLargePlan const& plan;
  unsigned char* memory;
  int head, first_row;  // of the block's tile of queries
  int team, thread;
  int* offsets;               // of tokens within a window of q
  uint32_t* sides;            // of 16 tokens each: 16 bits along y, and 16 along x
  uint32_t queries, tensors;  // of the first of two
  float* lengths;

  __device__ SwinLarge(SwinArguments<T> const& a, SwinLargePlan const& plan, unsigned char* memory)
      : a(a), plan(plan), memory(memory) {
    int const combination = blockIdx.x % (a.heads * plan.query_tiles);
    head = combination % a.heads, first_row = combination / a.heads * plan.rows<Tile>();
    team = threadIdx.x / plan.threads(), thread = threadIdx.x % plan.threads();
    unsigned char* const tables = memory + plan.bias_bytes<Tile>();
    offsets = reinterpret_cast<int*>(tables), sides = reinterpret_cast<uint32_t*>(offsets + plan.keys<Tile>());
    unsigned char* const own = tables + plan.table_bytes<Tile>() + team * plan.team_bytes<Tile>();
    queries = shared_address(own), tensors = queries + 2 * plan.query_bytes<Tile>();
    lengths = reinterpret_cast<float*>(own + (tensors - queries) + 4 * plan.tensor_bytes<Tile>());
  }

  __device__ int tokens() const { return a.windows.tokens(); }
  __device__ int warp_row() const { return thread / 32 * Tile::kRows; }
  __device__ uint32_t keys(int stage) const { return tensors + stage * 2 * plan.tensor_bytes<Tile>(); }
  // All threads of the team.
  __device__ void meet() const { asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "r"(plan.threads()) : "memory"); }

  // ---- what is the same for all windows ----

  __device__ void fill_tables() const {
    for (int token = threadIdx.x; token < tokens(); token += blockDim.x) {
      MapPosition const part = token_position(a.windows, token);
      offsets[token] = SwinRows::offset_of(a.q.strides, part.y, part.x);
    }
    for (int step = threadIdx.x; step < plan.keys<Tile>() / 16; step += blockDim.x) {
      uint32_t bits = 0;
      for (int i = 0; i < 16; ++i) {
        int const side = side_of(a.windows, 16 * step + i);
        bits |= uint32_t(side & 1) << i | uint32_t(side >> 1) << (16 + i);
      }
      sides[step] = bits;
    }
  }

  // As the threads of a warp hold logits: 16 bytes of each for 16 rows and 16 keys.
  __device__ void fill_bias() const {
    int const steps = plan.keys<Tile>() / 16, all = plan.rows<Tile>() * plan.keys<Tile>() / 8;
    auto const* const from = static_cast<T const*>(a.bias.data) + int64_t(head) * tokens() * tokens();
    for (int i = threadIdx.x; i < all; i += blockDim.x) {
      int const row = first_row + i / 32 / steps * 16 + i % 32 / 4, key = i / 32 % steps * 16 + i % 4 * 2;
      Vec<T, 8> value;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        int const y = row + j / 2 % 2 * 8, x = key + j % 2 + j / 4 * 8;
        value.lane[j] = from_float<T>(x < tokens() ? 0.f : -INFINITY);
        if (a.bias.data && y < tokens() && x < tokens()) value.lane[j] = from[y * tokens() + x];
      }
      *reinterpret_cast<Vec<T, 8>*>(memory + i * kAccessBytes) = value;
    }
  }

  // ---- copies of a window ----

  // Of a window's first token, in elements.
  __device__ int first_of(SwinStrides const& step, SwinPlace const& window) const {
    return SwinRows::first(step, a.windows, window) + head * static_cast<int>(step.head);
  }
  // From beyond the map's end to its other end, for a token on sides that a window has there.
  __device__ int around(SwinStrides const& step, int sides) const {
    return SwinRows::offset_of(step, sides & 1 ? a.windows.map_height : 0, sides & 2 ? a.windows.map_width : 0);
  }
  __device__ int side(int token) const {
    uint32_t const bits = sides[token / 16] >> token % 16;
    return int(bits & 1) | int(bits >> 15 & 2);
  }
  // Rows from `token` on, and zeros where there are none.
  template <int kTensors>
  __device__ void copy(T const* const (&tensors)[kTensors], SwinPlace const& window, int token, int rows,
                       uint32_t to) const {
    int const first = first_of(a.q.strides, window), edges = edges_of(a.windows, window);
    int const chunk = thread % kChunks, channel = chunk * Tile::kInChunk;
    for (int row = thread / kChunks; row < rows; row += plan.threads() / kChunks) {
      bool const has = token + row < tokens() && channel < a.head_dim;
      int from = 0;
      if (has) {
        from = first + offsets[token + row] + channel;
        if (edges) from -= around(a.q.strides, side(token + row) & edges);
      }
#pragma unroll
      for (int n = 0; n < kTensors; ++n)
        copy_line_or_zero(to + n * plan.tensor_bytes<Tile>() + Tile::place(row, chunk), tensors[n] + from, has);
    }
  }
  // into: of two.
  __device__ void copy_queries(SwinPlace const& window, int into) const {
    T const* const tensors[] = {a.q.data};
    copy(tensors, window, first_row, plan.rows<Tile>(), queries + into * plan.query_bytes<Tile>());
  }
  __device__ void copy_keys(SwinPlace const& window, int stage, int into) const {
    T const* const tensors[] = {a.k.data, a.v.data};
    copy(tensors, window, stage * plan.stage_keys<Tile>(), plan.stage_keys<Tile>(), keys(into));
  }

  // 1 / length of a stage's keys, four threads each.
  __device__ void find_lengths(int index) const {
    for (int i = thread; i < 4 * plan.stage_keys<Tile>(); i += plan.threads()) {
      float sum = 0.f;
#pragma unroll
      for (int more = 0; more < kChunks; more += 4)
        sum += squares_of<T>(load_shared_chunk(keys(index) + Tile::place(i / 4, i % 4 + more)));
      sum = sum_of_row(sum);
      if (i % 4 == 0) lengths[i / 4] = inverse_length_of(sum);
    }
    meet();
  }

  // ---- windows ----

  __device__ int token_of(int i) const { return first_row + warp_row() + 8 * i + thread % 32 / 4; }
  // On which side of the map's end this thread's rows are, two bits for each.
  __device__ uint32_t row_sides() const {
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) bits |= uint32_t(side_of(a.windows, token_of(i))) << (2 * i);
    return bits;
  }
  // Adds the value where row and key are on different sides. hidden: the axes that count, as halves of a word. step: of
  // 16 keys, the first of the tile.
  __device__ void hide(uint32_t hidden, uint32_t row_sides, int step, float value,
                       typename SwinLargeRows<Tile>::Products& product) const {
#pragma unroll
    for (int s = 0; s < Tile::kSteps; ++s) {
      uint32_t const keys = sides[step + s];
#pragma unroll
      for (int i = 0; i < 2 * kGroups; ++i) {
        uint32_t const row = halves(row_sides >> (2 * i)), apart = (keys ^ row) & hidden;
        uint32_t const bits = (apart | apart >> 16) >> (thread % 4 * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (bits & 1u << (j % 2 + j / 2 * 8)) product[i / 2][2 * s + j / 2][i % 2 * 2 + j % 2] += value;
        }
      }
    }
  }
  // Two bits as the halves of a word.
  __device__ static uint32_t halves(uint32_t bits) { return (bits & 1 ? 0xffffu : 0) | (bits & 2 ? 0xffff0000u : 0); }

  // offset: of this thread's rows within a window of the result.
  __device__ void write(SwinLargeRows<Tile> const& rows, SwinPlace const& window, int const (&offset)[2 * kGroups],
                        uint32_t row_sides) const {
    int const first = first_of(a.out.strides, window), edges = edges_of(a.windows, window), chunk = thread % 4;
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) {
      T* const to = a.out.data + first + offset[i] - (edges ? around(a.out.strides, row_sides >> (2 * i) & edges) : 0) +
                    chunk * Tile::kInChunk;
#pragma unroll
      for (int more = 0; more < kChunks; more += 4) {
        uint32_t word[4];
        rows.finish(i / 2, i % 2, more, word);
        bool const has = token_of(i) < tokens() && (chunk + more) * Tile::kInChunk < a.head_dim;
        if (has) store_chunk(to + more * Tile::kInChunk, word);
      }
    }
  }

  // The keys of a stage. hidden: as in `hide`.
  __device__ void compute(SwinLargeRows<Tile>& rows, int stage, int index, uint32_t hidden, uint32_t row_sides) const {
    int const steps = plan.keys<Tile>() / 16;
    constexpr int kStepBytes = 32 * kAccessBytes;  // of the bias of 16 rows and 16 keys
    uint32_t const bias = shared_address(memory) + warp_row() / 16 * steps * kStepBytes;
#pragma unroll 1
    for (int tile = 0; tile < plan.stage_tiles; ++tile) {
      int const step = (stage * plan.stage_tiles + tile) * Tile::kSteps;
      uint32_t const first = keys(index) + tile * Tile::kTileBytes;
      SwinLargeKeys const of_tile{first, first + plan.tensor_bytes<Tile>(), bias + step * kStepBytes,
                                  static_cast<uint32_t>(steps * kStepBytes), lengths + tile * Tile::kKeys};
      typename SwinLargeRows<Tile>::Products product;
      rows.multiply_keys(of_tile.keys, product);
      rows.add_bias(of_tile, product);
      if (hidden) hide(hidden, row_sides, step, a.shift_mask * rows.unit, product);
      rows.weigh(product);
      rows.add_values(of_tile.values, product);
    }
  }

  // Windows from `first` on, a step apart: while one stage is computed, the next one comes.
  __device__ void walk(int first, int step, int count) const {
    SwinPlace const steps = SwinPlace::of(a.windows, step);
    SwinPlace window = SwinPlace::of(a.windows, first);
    uint32_t const of_rows = row_sides();
    float const scale = a.factor(head);
    SwinLargeRows<Tile> rows;
    int offset[2 * kGroups], from = 0, queries_from = 0;
#pragma unroll
    for (int i = 0; i < 2 * kGroups; ++i) {
      MapPosition const part = token_position(a.windows, token_of(i));
      offset[i] = SwinRows::offset_of(a.out.strides, part.y, part.x);
    }
    if (first < count) copy_queries(window, 0), copy_keys(window, 0, 0);
    commit_copies();
    for (int64_t index = first; index < count; index += step) {
      SwinPlace next = window;
      next.advance(a.windows, steps);
      uint32_t const hidden = halves(a.hidden_sides(window));
#pragma unroll 1
      for (int stage = 0; stage < plan.stages; ++stage) {
        wait_for_copies_but<0>();
        meet();
        if (stage + 1 < plan.stages) {
          copy_keys(window, stage + 1, from ^ 1);
        } else if (index + step < count) {
          copy_queries(next, queries_from ^ 1), copy_keys(next, 0, from ^ 1);
        }
        commit_copies();
        if (Tile::kCosine) find_lengths(from);
        if (stage == 0) rows.begin(queries + queries_from * plan.query_bytes<Tile>(), warp_row(), scale);
        compute(rows, stage, from, hidden, of_rows);
        from ^= 1;
      }
      write(rows, window, offset, of_rows);
      queries_from ^= 1, window = next;
    }
  }
};

#endif

// One dimension of blocks: a head, a tile of queries, and one of the shares of the windows. threads: of a block.
template <class Tile, int kThreads, int kResidents>
__global__ void __launch_bounds__(kThreads, kResidents) swin_attention_large_kernel(SwinArguments<typename Tile::T> a,
                                                                                    SwinLargePlan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(kAccessBytes) unsigned char memory[];
  SwinLarge<Tile> const work(a, plan, memory);
  work.fill_tables();
  work.fill_bias();
  __syncthreads();
  int const share = blockIdx.x / (a.heads * plan.query_tiles);
  work.walk(share * plan.teams + work.team, plan.shares * plan.teams, static_cast<int>(a.all_windows()));
#else
  __trap();
#endif
}

}  // namespace bridge
