// One result of what the warps of attention of few rows have: of a block, and of a cluster of blocks that share keys.
#pragma once

#include "kernels/common/cluster.cuh"
#include "kernels/window_attention/results.cuh"
#include "kernels/window_attention/stream/plan.cuh"
#include "kernels/window_attention/stream/steps.cuh"

namespace bridge {

#ifdef BRIDGE_WGMMA

// One sum and its state from several: each adds what is by its own largest logit.
struct JoinedSum {
  float top = -INFINITY, total = 0.f, sum = 0.f;

  template <int kCount>
  __device__ JoinedSum(float2 const (&states)[kCount], float const (&sums)[kCount]) {
#pragma unroll
    for (float2 const& each : states) top = fmaxf(top, each.x);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      float const factor = exp2_fast(states[i].x - finite_top(top));
      total = fmaf(states[i].y, factor, total), sum = fmaf(sums[i], factor, sum);
    }
  }
};

template <class Tile>
struct StreamJoin {
  using T = typename Tile::T;
  using Results = StreamResults<Tile>;

  AttentionRows<T> const& rows;  // whose `split` is the part that the cluster computes
  AttentionParts const& parts;
  Results& results;
  int blocks, rank;  // of the cluster, and this block's number in it

  __device__ StreamJoin(AttentionRows<T> const& rows, AttentionParts const& parts, StreamShared<Tile>& shared,
                        int blocks, int rank)
      : rows(rows), parts(parts), results(reinterpret_cast<Results&>(shared)), blocks(blocks), rank(rank) {}

  // By all threads.
  __device__ void join(StreamSteps<Tile> const& steps) {
    __syncthreads();  // keys and values have been read
    store(steps);
    __syncthreads();
    each_output(0, outputs(), [&](int row, int channel) {
      JoinedSum const joined = of_warps(row, channel);
      if (blocks == 1) return write(row, channel, joined);
      results.block.sums[row][channel] = joined.sum;
      if (channel == 0) results.block.states[row] = {joined.top, joined.total};
    });
    if (blocks > 1) join_cluster();
  }

 private:
  __device__ void join_cluster() {
    synchronize_cluster();
    int const share = (outputs() + blocks - 1) / blocks, first = rank * share;
    each_output(first, min(first + share, outputs()),
                [&](int row, int channel) { write(row, channel, of_blocks(row, channel)); });
    meet_cluster();  // others have read from here
  }

  __device__ int outputs() const { return min(rows.count - rows.first, Tile::kRows) * Tile::kHeadDim; }

  template <class Visit>
  __device__ void each_output(int begin, int end, Visit visit) const {
    for (int i = begin + threadIdx.x; i < end; i += Tile::kThreads) {
      int const row = i / Tile::kHeadDim, channel = i % Tile::kHeadDim;
      if (channel < rows.a.head_dim) visit(row, channel);
    }
  }

  __device__ void store(StreamSteps<Tile> const& steps) {
    auto& to = results.warps[steps.warp];
#pragma unroll
    for (int i = 0; i < 2 * Tile::kRowTiles; ++i) {
      int const tile = i / 2, column = i % 2, row = steps.row(tile, column);
      float const total = steps.softmax[tile].whole_total(column);
      if (steps.lane < 4) to.states[row] = {steps.softmax[tile].top[column], total};
#pragma unroll
      for (int j = 0; j < 2 * StreamSteps<Tile>::kChannelTiles; ++j)
        to.sums[row][8 * j + steps.lane / 4] = steps.sum[tile][j / 2][j % 2 * 2 + column];
    }
  }

  __device__ JoinedSum of_warps(int row, int channel) const {
    float2 states[Tile::kWarps];
    float sums[Tile::kWarps];
#pragma unroll
    for (int i = 0; i < Tile::kWarps; ++i)
      states[i] = results.warps[i].states[row], sums[i] = results.warps[i].sums[row][channel];
    return JoinedSum(states, sums);
  }

  __device__ JoinedSum of_blocks(int row, int channel) const {
    float2 states[kMostClusterBlocks];
    float sums[kMostClusterBlocks];
    uint32_t const state = shared_address(&results.block.states[row]);
    uint32_t const sum = shared_address(&results.block.sums[row][channel]);
#pragma unroll
    for (int i = 0; i < kMostClusterBlocks; ++i) {
      float there[2] = {-INFINITY, 0.f}, value[1] = {};
      if (i < blocks) {
        load_shared_in(there, shared_address_in(state, i));
        load_shared_in(value, shared_address_in(sum, i));
      }
      states[i] = {there[0], there[1]}, sums[i] = value[0];
    }
    return JoinedSum(states, sums);
  }

  __device__ void write(int row, int channel, JoinedSum const& joined) const {
    if (parts.count > 1) {
      int64_t const place = rows.part_index(row);
      parts.sums[place * rows.a.head_dim + channel] = joined.sum;
      if (channel == 0) parts.states[place] = {joined.top, joined.total};
    } else {
      SoftmaxRows state;
      state.top[0] = joined.top, state.total[0] = joined.total;
      float const factor = state.divisor(0, sink_logit(rows.a, rows.head(row)));
      rows.out(row)[channel] = from_float<T>(factor == 0.f ? 0.f : joined.sum * factor);
    }
  }
};

#endif  // BRIDGE_WGMMA

}  // namespace bridge
