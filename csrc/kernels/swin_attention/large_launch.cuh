// How windows of more than 64 tokens are shared among blocks, and the launch of their kernel.
#pragma once

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/device.h"
#include "kernels/swin_attention/large.cuh"

namespace bridge {

constexpr int kSwinLargeHeadDim = 64;
constexpr int kSwinLargeWarps = 16, kSwinLargeTeams = 15;  // of a block at most; each team has a barrier

// Shared memory that one block may have: as the CUDA C++ Programming Guide has it.
inline int swin_block_memory(int capability) {
  if (capability >= 90 && capability < 120) return 227 << 10;
  return (capability == 80 || capability == 87 ? 163 : 99) << 10;
}

// Shares of the windows, for that many blocks at once: as many windows of each team as of every other, as far as
// possible. Teams step through the columns of windows: else some would have all those that span the map's end.
template <class T>
int64_t swin_shares(SwinArguments<T> const& a, int64_t at_once, int64_t teams) {
  int64_t const windows = a.all_windows(), most = at_once < 1 ? 1 : std::min(at_once, ceil_divide(windows, teams));
  int64_t shares = ceil_divide(ceil_divide(windows, ceil_divide(windows, most * teams)), teams);
  while (shares < most && std::gcd(shares * teams, int64_t(a.windows.columns)) > 1) ++shares;
  return shares;
}

// A plan and what it costs.
struct SwinLargeChoice {
  SwinLargePlan plan{};
  double cost = 0;  // 0: there is none
};

// Instructions of the warps of a multiprocessor, as they are in the machine code for compute capability 9.0, and how
// much of its time so few warps leave it idle. On an H200 plans came in this order.
template <class Tile>
double swin_large_cost(SwinLargePlan const& plan, int64_t windows, int64_t turns) {
  constexpr double kStep = 85, kCopiedRow = 3, kWarp = 200, kBias = 0.6, kIdleWarps = 8;
  double const keys = plan.keys<Tile>(), rows = plan.rows<Tile>(), warps = plan.warps * plan.teams;
  double const window = plan.warps * (keys / 16 * kStep + kWarp) + (2 * keys + rows) * kCopiedRow;
  double const each = double(ceil_divide(windows, int64_t(plan.shares) * plan.teams));
  return double(turns) * (each * plan.teams * window + rows * keys * kBias) * (warps + kIdleWarps) / warps;
}

// With as many keys at once as there is memory for.
template <class Tile, class T>
SwinLargeChoice swin_large_choice(SwinArguments<T> const& a, int warps, int teams, Device const& device) {
  int const tokens = a.windows.tokens(), tiles = static_cast<int>(ceil_divide(tokens, Tile::kKeys));
  SwinLargePlan plan{};
  plan.warps = warps, plan.teams = teams;
  plan.query_tiles = static_cast<int>(ceil_divide(tokens, warps * Tile::kRows));
  int64_t const combinations = int64_t(a.heads) * plan.query_tiles;
  plan.shares = static_cast<int>(swin_shares(a, device.multiprocessors / combinations, teams));
  int64_t const turns = ceil_divide(plan.shares * combinations, device.multiprocessors);
  for (int stages = 1; stages <= tiles; ++stages) {
    plan.stage_tiles = static_cast<int>(ceil_divide(tiles, stages));
    plan.stages = static_cast<int>(ceil_divide(tiles, plan.stage_tiles));
    if (plan.shared_bytes<Tile>() <= swin_block_memory(device.capability))
      return {plan, swin_large_cost<Tile>(plan, a.all_windows(), turns)};
  }
  return {};
}

template <class Tile, class T>
SwinLargeChoice swin_large_choice(SwinArguments<T> const& a, Device const& device) {
  SwinLargeChoice best;
  for (int warps = 1; warps <= kSwinLargeWarps; ++warps) {
    for (int teams = 1; teams * warps <= kSwinLargeWarps && teams <= kSwinLargeTeams; ++teams) {
      SwinLargeChoice const choice = swin_large_choice<Tile>(a, warps, teams, device);
      if (choice.cost > 0 && (best.cost == 0 || choice.cost < best.cost)) best = choice;
    }
  }
  return best;
}

template <class Tile, class T>
cudaError_t launch_swin_large(SwinArguments<T> const& a, SwinLargePlan const& plan, cudaStream_t stream) {
  int64_t const blocks = (Size(plan.shares) * a.heads * plan.query_tiles).value();
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  auto const kernel = swin_attention_large_kernel<Tile, 32 * kSwinLargeWarps, 1>;
  int const shared = plan.shared_bytes<Tile>();
  cudaError_t const status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(blocks), plan.threads() * plan.teams, shared, stream>>>(a, plan);
  return cudaGetLastError();
}

// Whether the kernel takes a call: no mask, and a bias of T, of which a block keeps some in shared memory.
template <class T>
bool takes_swin_large(SwinArguments<T> const& a) {
  bool const plain = a.cosine() || a.scale * kLog2E > kLeastFactor;
  return a.head_dim <= kSwinLargeHeadDim && !a.mask.data && !(a.bias.data && a.bias.wide) && plain;
}

// Nothing where there is no memory for it.
template <class T, int kHeadDim, int kKeys, bool kCosine>
std::optional<cudaError_t> try_swin_large_tile(SwinArguments<T> const& a, Device const& device, cudaStream_t stream) {
  using Tile = SwinLargeTile<T, kHeadDim, 1, kKeys, kCosine>;
  SwinLargeChoice const choice = swin_large_choice<Tile>(a, device);
  if (choice.cost == 0) return {};
  return launch_swin_large<Tile>(a, choice.plan, stream);
}

// Nothing where other kernels are to compute it.
template <class T>
std::optional<cudaError_t> try_swin_large(SwinArguments<T> const& a, Device const& device, cudaStream_t stream) {
  if (!takes_swin_large(a)) return {};
  int64_t const tokens = a.windows.tokens();
  bool const wider = ceil_divide(tokens, 48) * 48 <= ceil_divide(tokens, 32) * 32, narrow = a.head_dim <= 32;
  auto const launch = a.cosine()
                          ? narrow ? wider ? try_swin_large_tile<T, 32, 48, true> : try_swin_large_tile<T, 32, 32, true>
                                   : try_swin_large_tile<T, 64, 32, true>
                      : narrow ? wider ? try_swin_large_tile<T, 32, 48, false> : try_swin_large_tile<T, 32, 32, false>
                               : try_swin_large_tile<T, 64, 32, false>;
  return launch(a, device, stream);
}

}  // namespace bridge
