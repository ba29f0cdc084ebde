// TensorRT's shape expressions as the extents of the op table.
#pragma once

#include "core/dim.h"
#include "hosts/tensorrt/abi.h"

namespace bridge {

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
