#include "hosts/tensorrt/types.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace bridge {
namespace {

// TensorRT's formats, one row each: a tensor of these dtypes, of that rank, is in that layout. Where TensorRT pads
// channels to a multiple, only such numbers of them are taken: kernels expect no padding.
struct Row {
  int32_t format;
  Layout layout;
  DTypes dtypes;
  int rank;
  int64_t channels;  // their number is a multiple of this
  DTypes built;      // of these, what engines are built with: float16, as convolutions on tensor cores leave it

  bool holds(Param const& param, trt::TensorDesc const& desc) const {
    DType const dtype = from_trt(desc.dtype);
    int64_t const extent = desc.dims.rank == rank ? desc.dims.extent[1] : 0;
    bool const padded = channels > 1 && (extent <= 0 || extent % channels != 0);
    return desc.dims.rank == rank && accepts(dtypes, dtype, dtype) && (param.also & in_set(layout)) && !padded;
  }
};
constexpr Row kFormats[] = {
    {trt::kHwc, Layout::kChannelsLast, in_set(DType::kFloat32), 4, 1, 0},
    {trt::kHwc8, Layout::kChannelsLast, in_set(DType::kFloat16) | in_set(DType::kBFloat16), 4, 8,
     in_set(DType::kFloat16)},
};

}  // namespace

DType from_trt(int32_t dtype) {
  switch (dtype) {
#define BRIDGE_ROW(member, name, type, bytes, torch, tensorrt) \
  case trt::tensorrt:                                          \
    return DType::member;
    BRIDGE_DTYPES(BRIDGE_ROW)
#undef BRIDGE_ROW
    default:
      return DType::kUnsupported;
  }
}

int32_t to_trt(DType dtype) {
  switch (dtype) {
#define BRIDGE_ROW(member, name, type, bytes, torch, tensorrt) \
  case DType::member:                                          \
    return trt::tensorrt;
    BRIDGE_DTYPES(BRIDGE_ROW)
#undef BRIDGE_ROW
    default:
      throw std::invalid_argument("an output would have an unsupported dtype");
  }
}

Layout layout_of(trt::TensorDesc const& desc) {
  for (auto const& row : kFormats) {
    if (row.format == desc.format) return row.layout;
  }
  return Layout::kLinear;
}

bool takes_format(Param const& param, trt::TensorDesc const& desc) {
  if (desc.format == trt::kLinear) return true;
  return std::any_of(std::begin(kFormats), std::end(kFormats),
                     [&](Row const& row) { return row.format == desc.format && row.holds(param, desc); });
}

bool is_built_in(Param const& param, trt::TensorDesc const& desc) {
  DType const dtype = from_trt(desc.dtype);
  for (Row const& row : kFormats) {
    if ((row.built & in_set(dtype)) && row.holds(param, desc)) return desc.format == row.format;
  }
  return desc.format == trt::kLinear;
}

bool fits_first(Param const& param, trt::TensorDesc const& desc, trt::TensorDesc const& first) {
  return !param.tied || layout_of(desc) == layout_of(first);
}

void require_format(Param const& param, trt::TensorDesc const& desc, trt::TensorDesc const& first) {
  checked_rank(desc.dims.rank);
  require(takes_format(param, desc), param.name, " comes in format ", desc.format, ", which it is not taken in");
  require(fits_first(param, desc, first), param.name, " is in format ", desc.format, ", and the first input in ",
          first.format, ": both must be in one layout");
}

bool same_desc(trt::TensorDesc const& a, trt::TensorDesc const& b) {
  return a.dtype == b.dtype && a.format == b.format && a.dims.rank == b.dims.rank &&
         std::equal(a.dims.extent, a.dims.extent + a.dims.rank, b.dims.extent);
}

Tensor to_tensor(trt::Dims const& dims, trt::TensorDesc const& desc) {
  Tensor tensor{nullptr, from_trt(desc.dtype), checked_rank(dims.rank)};
  for (int axis = 0; axis < dims.rank; ++axis) tensor.sizes[axis] = std::max<int64_t>(dims.extent[axis], 0);
  tensor.layout = layout_of(desc);
  return tensor;
}

Shape to_shape(trt::Dims const& dims) {
  Shape shape;
  shape.rank = 0;
  for (int axis = 0; axis < checked_rank(dims.rank); ++axis)
    shape.append(dims.extent[axis] < 0 ? Dim::unknown() : Dim(dims.extent[axis]));
  return shape;
}

int checked_rank(int32_t rank) {
  require(rank >= 0 && rank <= kMaxRank, "a tensor has ", rank, " dimensions, expected 0 to ", kMaxRank);
  return rank;
}

}  // namespace bridge
