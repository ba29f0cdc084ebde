// Tensor maps of the tensor memory accelerator, of compute capability 9.0 and later: what copies of boxes of a tensor
// to shared memory need to know of it (CUDA driver API, "Tensor Map Object Management"; PTX ISA 8.0).
#pragma once

#include <cuda.h>

#include <algorithm>

#include "wgmma.cuh"

namespace bridge {

constexpr int kMapRowBytes = 128;  // of a box in shared memory, where 16-byte chunks are permuted within each 8 rows

// One dimension of a tensor, of a map and of its boxes; the step is in elements.
struct MapDimension {
  int64_t extent, step;
  int box;
};

template <class T>
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
template <>
constexpr CUtensorMapDataType kMapType<bfloat16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// The driver's function; null where the driver has none.
inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  static auto const encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    cudaError_t const status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    bool const found = status == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return found ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
  }();
  return encoder;
}

// A map of a tensor of 16-bit elements whose `width` innermost ones lie side by side. A box is 64 of these wide; what
// it has beyond the tensor's extents is zeros. False where the hardware does not take the tensor. promotion: of reads
// that miss the L2 cache.
template <class T, int kRank>
bool make_tensor_map(CUtensorMap& map, T const* data, int64_t width, MapDimension const (&outer)[kRank],
                     CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B) {
  static_assert(sizeof(T) == 2);
  auto const encode = tensor_map_encoder();
  cuuint64_t extents[kRank + 1] = {cuuint64_t(width)}, strides[kRank];
  cuuint32_t boxes[kRank + 1] = {kMapRowBytes / sizeof(T)}, steps[kRank + 1] = {1};
  cuuint64_t dense = (width * sizeof(T) + kAccessBytes - 1) / kAccessBytes * kAccessBytes;  // a step that is not taken
  for (int i = 0; i < kRank; ++i) {
    extents[i + 1] = outer[i].extent, boxes[i + 1] = outer[i].box, steps[i + 1] = 1;
    strides[i] = outer[i].extent == 1 ? dense : outer[i].step * sizeof(T);
    dense = std::max(dense, strides[i] * extents[i + 1]);
  }
  return encode && encode(&map, kMapType<T>, kRank + 1, const_cast<T*>(data), extents, strides, boxes, steps,
                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Copies the box that begins at an element, and tells the barrier when its bytes have arrived.
__device__ inline void copy_box(uint32_t shared, CUtensorMap const& map, SharedBarrier& barrier, int x0, int x1, int x2,
                                int x3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared),
      "l"(&map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(shared_address(&barrier))
      : "memory");
}
__device__ inline void copy_box(uint32_t shared, CUtensorMap const& map, SharedBarrier& barrier, int x0, int x1, int x2,
                                int x3, int x4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, "
      "%6}], [%7];" ::"r"(shared),
      "l"(&map), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(shared_address(&barrier))
      : "memory");
}

}  // namespace bridge
