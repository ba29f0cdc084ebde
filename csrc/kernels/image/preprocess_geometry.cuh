// Which part of an image is resized, to what size, and where it stands in the result: whole numbers throughout, so that
// they are the reference's.
#pragma once

#include "kernels/image/preprocess_arguments.cuh"

namespace bridge {

// Half of the room; what is cut off is halved as torchvision's CenterCrop does, to an even number between two.
__host__ __device__ inline int centred(int room) { return room >= 0 ? room / 2 : -((-room + ((-room >> 1) & 1)) >> 1); }

// Products of an image's sides with those of a resized one are less than 2^30.
__host__ __device__ inline Placement placed(PreprocessArguments const& a, int64_t left, int64_t top, int64_t right,
                                            int64_t bottom) {
  bool const even = a.colours != Colours::kYuv || ((left | top | right | bottom) & 1) == 0;
  bool const within = 0 <= left && left < right && right <= a.width && 0 <= top && top < bottom && bottom <= a.height;
  if (!even || !within) return {};
  auto const width = static_cast<uint32_t>(right - left), height = static_cast<uint32_t>(bottom - top);
  uint32_t wide = a.resize_w, high = a.resize_h;
  uint32_t const by_height = width * high, by_width = height * wide;
  if (a.fit == Fit::kLetterbox) {
    if (by_height <= by_width) {
      wide = (2 * by_height + height) / (2 * height);
    } else {
      high = (2 * by_width + width) / (2 * width);
    }
    wide = wide < 1 ? 1 : wide, high = high < 1 ? 1 : high;
  } else if (a.fit == Fit::kCrop) {
    if (by_height >= by_width) {
      wide = by_height / height;
    } else {
      high = by_width / width;
    }
  }
  Placement p{int(left), int(top), int(width), int(height), int(wide), int(high), 0, 0, 0.f, 0.f, true};
  if (a.center) p.column = centred(a.out_w - p.wide), p.row = centred(a.out_h - p.high);
  p.across = float(p.width) / float(p.wide), p.down = float(p.height) / float(p.high);
  return p;
}

__device__ inline Placement placement_of(PreprocessArguments const& a, int64_t n) {
  int64_t box[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    box[i] = a.long_boxes ? static_cast<int64_t const*>(a.boxes)[4 * n + i]
                          : static_cast<int32_t const*>(a.boxes)[4 * n + i];
  }
  return placed(a, box[0], box[1], box[2], box[3]);
}

// That of all threads of a block: known before, or computed by one of them. `memory` is read no more when it is called.
__device__ inline Placement const& block_placement(PreprocessArguments const& a, int64_t n, Placement& memory) {
  if (!a.boxes) return a.whole;
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) memory = placement_of(a, n);
  __syncthreads();
  return memory;
}

}  // namespace bridge
