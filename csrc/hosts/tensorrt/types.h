// Dtypes, tensors, shapes and shape expressions of TensorRT as those of the op table.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "core/op.h"
#include "hosts/tensorrt/abi.h"

namespace bridge {

inline DType from_trt(int32_t dtype) {
  switch (dtype) {
    case trt::kFloat:
      return DType::kFloat32;
    case trt::kHalf:
      return DType::kFloat16;
    case trt::kBFloat16:
      return DType::kBFloat16;
    case trt::kInt32:
      return DType::kInt32;
    case trt::kInt64:
      return DType::kInt64;
    default:
      return DType::kUnsupported;
  }
}

inline int32_t to_trt(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return trt::kFloat;
    case DType::kFloat16:
      return trt::kHalf;
    case DType::kBFloat16:
      return trt::kBFloat16;
    case DType::kInt32:
      return trt::kInt32;
    case DType::kInt64:
      return trt::kInt64;
    default:
      throw std::invalid_argument("an output would have an unsupported dtype");
  }
}

inline int checked_rank(int32_t rank) {
  require(rank >= 0 && rank <= kMaxRank, "a tensor has ", rank, " dimensions, expected 0 to ", kMaxRank);
  return rank;
}

// Extents that are not known yet count as 0.
inline Tensor to_tensor(trt::Dims const& dims, trt::TensorDesc const& desc, void* data) {
  Tensor tensor{data, from_trt(desc.dtype), checked_rank(dims.rank)};
  for (int i = 0; i < dims.rank; ++i) tensor.sizes[i] = std::max<int64_t>(dims.extent[i], 0);
  if (desc.format != trt::kLinear) tensor.layout = Layout::kChannelsLast;
  return tensor;
}

// Whether a tensor is channels-last in that format. TensorRT has one format for float32 and one for 16 bits; this one
// pads channels to a multiple of 8, which kernels do not expect.
inline bool is_channels_last(trt::TensorDesc const& desc) {
  if (desc.dims.rank != 4) return false;
  if (desc.dtype == trt::kFloat) return desc.format == trt::kHwc;
  return desc.format == trt::kHwc8 && (desc.dtype == trt::kHalf || desc.dtype == trt::kBFloat16) &&
         desc.dims.extent[1] > 0 && desc.dims.extent[1] % 8 == 0;
}

inline bool takes_format(Param const& param, trt::TensorDesc const& desc) {
  return desc.format == trt::kLinear || (param.also == Layout::kChannelsLast && is_channels_last(desc));
}

inline bool same_desc(trt::TensorDesc const& a, trt::TensorDesc const& b) {
  return a.dtype == b.dtype && a.format == b.format && a.dims.rank == b.dims.rank &&
         std::equal(a.dims.extent, a.dims.extent + a.dims.rank, b.dims.extent);
}

inline Shape to_shape(trt::Dims const& dims) {
  Shape shape;
  shape.rank = 0;
  for (int i = 0; i < checked_rank(dims.rank); ++i)
    shape.append(dims.extent[i] < 0 ? Dim::unknown() : Dim(dims.extent[i]));
  return shape;
}

class BuilderExpressions final : public Expressions {
 public:
  explicit BuilderExpressions(trt::ExprBuilder& builder) : builder_(*builder.impl) {}

  void const* constant(int64_t value) override { return checked(builder_.constant(value)); }
  void const* operation(DimOp op, void const* a, void const* b) override {
    constexpr int32_t codes[] = {trt::kSum, trt::kProd, trt::kMax, trt::kMin, trt::kSub, trt::kFloorDiv, trt::kCeilDiv};
    return checked(builder_.operation(codes[static_cast<int32_t>(op)], *static_cast<trt::DimensionExpr const*>(a),
                                      *static_cast<trt::DimensionExpr const*>(b)));
  }

 private:
  static void const* checked(void const* expression) {
    require(expression != nullptr, "TensorRT refused a shape expression");
    return expression;
  }
  trt::ExprBuilderImpl& builder_;
};

}  // namespace bridge
