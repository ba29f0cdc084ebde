// Attention within the windows of a map: which kernel computes it.
#pragma once

#include <climits>
#include <numeric>

#include "core/checked.h"
#include "core/device.h"
#include "kernels/swin_attention/exact.cuh"
#include "kernels/swin_attention/large_launch.cuh"
#include "kernels/swin_attention/tiles.cuh"
#include "kernels/swin_attention/window.cuh"

namespace bridge {

constexpr int kSwinWindowTokens = 64;      // of the kernel that has a window's logits at once
constexpr int kSwinWindowHeadDim = 64;     // of the same
constexpr int kSwinTilesHeadDim = 128;     // of the kernel that walks tiles of keys
constexpr int kSwinTilesTokens = 1 << 14;  // of the same: a window's pairs of tokens are counted in 32 bits

inline bool operator==(SwinStrides const& a, SwinStrides const& b) {
  return a.image == b.image && a.y == b.y && a.x == b.x && a.head == b.head;
}

// Whether the tensor-core kernels take a tensor: they read and write 16 bytes at once, and count elements in 32 bits.
template <class T>
bool takes_swin_tensor(SwinArguments<T> const& a, void const* data, SwinStrides const& step) {
  constexpr int kInChunk = kAccessBytes / sizeof(T);
  auto const fits = [](int64_t stride) { return stride >= 0 && stride % kInChunk == 0 && stride <= INT_MAX; };
  if (!aligned(data) || !fits(step.image) || !fits(step.y) || !fits(step.x) || !fits(step.head)) return false;
  Size const last = Size(a.images) * step.image + Size(2) * a.windows.map_height * step.y +
                    Size(2) * a.windows.map_width * step.x + Size(a.heads) * step.head;
  return last.value() <= INT_MAX;
}

template <class T>
bool takes_swin_tiles(SwinArguments<T> const& a) {
  auto const fits = [&](auto const& tensor) { return takes_swin_tensor(a, tensor.data, tensor.strides); };
  bool const alike = a.k.strides == a.q.strides && a.v.strides == a.q.strides;
  constexpr int kInChunk = kAccessBytes / sizeof(T);
  bool const tables = (!a.bias.data || aligned(a.bias.data)) && (!a.mask.data || aligned(a.mask.data));
  return a.head_dim % kInChunk == 0 && a.head_dim <= kSwinTilesHeadDim && a.windows.tokens() <= kSwinTilesTokens &&
         alike && tables && fits(a.q) && fits(a.k) && fits(a.v) && fits(a.out);
}

// Shared memory of a multiprocessor: as the CUDA C++ Programming Guide has it.
inline int swin_shared_memory(int capability) {
  if (capability >= 90 && capability < 120) return 228 << 10;
  return (capability == 80 || capability == 87 ? 164 : 100) << 10;
}

// As many windows of each block as of every other, as far as possible, and no more blocks than run at once. Blocks step
// through the columns of windows: else some would have all those that span the map's end.
template <class T>
int64_t swin_window_shares(SwinArguments<T> const& a, int at_once) {
  int64_t const windows = a.all_windows(), most = at_once / a.heads > 1 ? at_once / a.heads : 1;
  int64_t shares = windows < most ? windows : ceil_divide(windows, ceil_divide(windows, most));
  while (shares < most && shares < windows && std::gcd(shares, int64_t(a.windows.columns)) > 1) ++shares;
  return shares;
}

// Windows of up to 64 tokens that a block holds at once, without masks and cosines. On an H200 three were 2 to 4 %
// faster where blocks walk many windows, and two where they do not; fewer blocks have the memory for three on smaller
// GPUs.
inline int swin_window_stages(int64_t windows_of_heads, int head_dim, Device const& device) {
  constexpr int kMany = 32;  // of a multiprocessor
  bool const room = head_dim <= 32 && swin_shared_memory(device.capability) >= 164 << 10;
  return room && windows_of_heads >= int64_t(kMany) * device.multiprocessors ? 3 : 2;
}

template <class T, int kHeadDim, int kColumns>
cudaError_t launch_swin_window(SwinArguments<T> const& a, int stages, Device const& device, cudaStream_t stream) {
  using Tile = SwinWindowTile<T, kHeadDim, kColumns>;
  constexpr int kResidents = kHeadDim > 32 ? 3 : 4,
                kReserved = 1024;  // bytes of shared memory that a block costs
  bool const plain = plain_swin_logits(a);
  int const shared = stages * swin_stage_bytes<Tile>(a, plain);
  auto const kernel = !plain        ? swin_attention_window_kernel<Tile, kResidents, false, true>
                      : a.mask.data ? swin_attention_window_kernel<Tile, kResidents, true, true>
                                    : swin_attention_window_kernel<Tile, kResidents, true, false>;
  cudaError_t const status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  int const fitting = swin_shared_memory(device.capability) / (shared + kReserved);
  int const residents = fitting < 1 ? 1 : fitting < kResidents ? fitting : kResidents;
  int64_t const shares = swin_window_shares(a, residents * device.multiprocessors);
  SwinWindowPlan const plan{stages, shared / stages, static_cast<int>(ceil_divide(a.all_windows(), shares))};
  dim3 const blocks(a.heads, static_cast<unsigned>(shares));
  kernel<<<blocks, Tile::kThreads, shared, stream>>>(a, plan);
  return cudaGetLastError();
}

template <class T, int kHeadDim, int kTokens>
cudaError_t launch_swin_tiles(SwinArguments<T> const& a, cudaStream_t stream) {
  using Tile = SwinTile<T, kHeadDim, kTokens, kTokens / 8>;
  int64_t const tiles = ceil_divide(a.windows.tokens(), kTokens);
  int64_t const blocks = (Size(a.all_windows()) * a.heads * tiles).value();
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  auto const kernel = swin_attention_tiles_kernel<Tile>;
  constexpr int kShared = kSwinTilesBytes<Tile>;
  cudaError_t const status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, kShared, stream>>>(a);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_swin_halves(SwinArguments<T> const& a, int stages, Device const& device, cudaStream_t stream) {
  int const tokens = a.windows.tokens();
  if (tokens <= kSwinWindowTokens && a.head_dim <= kSwinWindowHeadDim) {
    bool const narrow = tokens <= 56;
    auto const launch = a.head_dim <= 32 ? narrow ? launch_swin_window<T, 32, 7> : launch_swin_window<T, 32, 8>
                        : narrow         ? launch_swin_window<T, 64, 7>
                                         : launch_swin_window<T, 64, 8>;
    return launch(a, stages, device, stream);
  }
  if (auto const status = try_swin_large(a, device, stream)) return *status;
  // The tiles that leave fewer rows without a token.
  bool const smaller = ceil_divide(tokens, 48) * 48 < ceil_divide(tokens, 64) * 64;
  auto const launch = a.head_dim <= 32   ? smaller ? launch_swin_tiles<T, 32, 48> : launch_swin_tiles<T, 32, 64>
                      : a.head_dim <= 64 ? smaller ? launch_swin_tiles<T, 64, 48> : launch_swin_tiles<T, 64, 64>
                                         : launch_swin_tiles<T, 128, 64>;
  return launch(a, stream);
}

// stages: windows of up to 64 tokens that a block holds, 2 or 3.
template <class T>
cudaError_t launch_swin_attention(SwinArguments<T> const& a, int stages, Device const& device, cudaStream_t stream) {
  if (a.all_windows() == 0 || a.windows.tokens() == 0 || a.heads == 0) return cudaSuccess;
  if constexpr (sizeof(T) == 2) {
    if (device.capability >= 80 && takes_swin_tiles(a)) return launch_swin_halves(a, stages, device, stream);
  }
  return launch_swin_attention_exact(a, stream);
}

}  // namespace bridge
