// Which part of an image is resized, to what size, and where it stands in the result: whole numbers throughout, so that
// they are the reference's.
#pragma once

#include "kernels/image/preprocess_arguments.cuh"

namespace bridge {

struct Placement {
  int left, top, width, height;  // the box in the image
  int wide, high;                // its size once it is resized
  int column, row;               // where its corner stands in the result; negative where it is cut off
  bool right;                    // whether the box is one
};

// Half of the room; what is cut off is halved as torchvision's CenterCrop does, to an even number between two.
__host__ __device__ inline int centred(int room) { return room >= 0 ? room / 2 : -((-room + ((-room >> 1) & 1)) >> 1); }

__host__ __device__ inline Placement placed(PreprocessArguments const& a, int64_t left, int64_t top, int64_t right,
                                            int64_t bottom) {
  bool const even = a.colours != Colours::kYuv || ((left | top | right | bottom) & 1) == 0;
  bool const within = 0 <= left && left < right && right <= a.width && 0 <= top && top < bottom && bottom <= a.height;
  if (!even || !within) return {0, 0, 0, 0, 0, 0, 0, 0, false};
  int64_t const width = right - left, height = bottom - top;
  int64_t wide = a.resize_w, high = a.resize_h;
  bool const flat = high * width <= wide * height;  // the height decides what fits
  if (a.fit == Fit::kLetterbox) {
    if (flat) {
      wide = (2 * width * high + height) / (2 * height);
    } else {
      high = (2 * height * wide + width) / (2 * width);
    }
    wide = wide < 1 ? 1 : wide, high = high < 1 ? 1 : high;
  } else if (a.fit == Fit::kCrop) {
    if (high * width >= wide * height) {
      wide = width * high / height;
    } else {
      high = height * wide / width;
    }
  }
  Placement p{int(left), int(top), int(width), int(height), int(wide), int(high), 0, 0, true};
  if (a.center) p.column = centred(a.out_w - p.wide), p.row = centred(a.out_h - p.high);
  return p;
}

__device__ inline Placement placement_of(PreprocessArguments const& a, int64_t n) {
  if (!a.boxes) return placed(a, 0, 0, a.width, a.height);
  int64_t box[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    box[i] = a.long_boxes ? static_cast<int64_t const*>(a.boxes)[4 * n + i]
                          : static_cast<int32_t const*>(a.boxes)[4 * n + i];
  }
  return placed(a, box[0], box[1], box[2], box[3]);
}

// The same for all threads of a block, computed by one of them.
__device__ inline Placement const& shared_placement(PreprocessArguments const& a, int64_t n) {
  __shared__ Placement placement;
  if (threadIdx.x == 0 && threadIdx.y == 0) placement = placement_of(a, n);
  __syncthreads();
  return placement;
}

}  // namespace bridge
