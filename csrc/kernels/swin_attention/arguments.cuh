// What the kernels of attention within windows are given, and where the tokens of a window lie in a map.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/common/attention.cuh"

namespace bridge {

constexpr int kSwinMaxHeadDim = 256;
constexpr float kLeastNorm = 1e-12f;    // of a query or key, for cosine attention
constexpr float kLeastFactor = 1e-20f;  // of logits, that a bias is divided by

// Steps between elements, of a tensor whose head_dim is innermost.
struct SwinStrides {
  int64_t image, y, x, head;
};
template <class T>
struct SwinTensor {
  T* data;
  SwinStrides strides;
};

// An optional tensor of T or float32; null: there is none.
template <class T>
struct SwinTable {
  void const* data;
  bool wide;  // float32

  __device__ float at(int64_t i) const {
    return wide ? static_cast<float const*>(data)[i] : to_float(static_cast<T const*>(data)[i]);
  }
};

// A map cut into windows: rows × columns of height × width tokens. Token (y, x) of window (y, x) is at
// window * window_step + token * token_step + shift of the map along each axis, around its end: a shifted window spans
// the map's end.
struct SwinWindows {
  int rows, columns, height, width;
  int map_height, map_width;
  int window_step_y, window_step_x, token_step_y, token_step_x;
  int shift_y, shift_x;

  __host__ __device__ int tokens() const { return height * width; }
  __host__ __device__ int count() const { return rows * columns; }
};

struct MapPosition {
  int y, x;
};

// A window of an image; steps from window to window.
struct SwinPlace {
  int image, y, x;

  __host__ __device__ static SwinPlace of(SwinWindows const& windows, int64_t index) {
    int const within = static_cast<int>(index % windows.count());
    return {static_cast<int>(index / windows.count()), within / windows.columns, within % windows.columns};
  }
  __device__ void advance(SwinWindows const& windows, SwinPlace const& step) {
    x += step.x, y += step.y, image += step.image;
    if (x >= windows.columns) x -= windows.columns, ++y;
    if (y >= windows.rows) y -= windows.rows, ++image;
  }
};

// A token's part of its position, which is the same for all windows.
__device__ inline MapPosition token_position(SwinWindows const& windows, int token) {
  int const y = token / windows.width, x = token % windows.width;
  return {y * windows.token_step_y + windows.shift_y, x * windows.token_step_x + windows.shift_x};
}
__device__ inline MapPosition position(SwinWindows const& windows, SwinPlace const& window, MapPosition token) {
  int const y = window.y * windows.window_step_y + token.y, x = window.x * windows.window_step_x + token.x;
  return {y < windows.map_height ? y : y - windows.map_height, x < windows.map_width ? x : x - windows.map_width};
}

// Which side of the map's end a token of a shifted window is on: bit 0 along y, bit 1 along x. Tokens on different
// sides do not see each other.
__device__ inline int side_of(SwinWindows const& windows, int token) {
  int const y = token / windows.width, x = token % windows.width;
  return int(y >= windows.height - windows.shift_y) | int(x >= windows.width - windows.shift_x) << 1;
}
// The bits that count for a window: of the axes along which it spans the map's end.
__device__ inline int edges_of(SwinWindows const& windows, SwinPlace const& window) {
  return int(windows.shift_y > 0 && window.y == windows.rows - 1) |
         int(windows.shift_x > 0 && window.x == windows.columns - 1) << 1;
}

template <class T>
struct SwinArguments {
  SwinTensor<T const> q, k, v;
  SwinTensor<T> out;
  SwinTable<T> bias;         // [heads, tokens, tokens]
  SwinTable<T> mask;         // [masks, tokens, tokens]: that of a window is the one of its index modulo `masks`
  SwinTable<T> logit_scale;  // [heads]; without it products are not of unit vectors
  SwinWindows windows;
  int images, heads, head_dim, masks;
  float scale, shift_mask;

  __host__ __device__ int64_t all_windows() const { return int64_t(images) * windows.count(); }
  // The bits of sides that are hidden from one another in a window.
  __device__ int hidden_sides(SwinPlace const& window) const {
    return shift_mask != 0.f ? edges_of(windows, window) : 0;
  }
  __host__ __device__ bool cosine() const { return logit_scale.data != nullptr; }

  // What products of head_dim are multiplied by, for logits of base 2.
  __device__ float factor(int head) const {
    float const factor = cosine() ? logit_scale.at(head) : scale;
    return factor * kLog2E;
  }
};

}  // namespace bridge
