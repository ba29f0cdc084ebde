// The binary interface of TensorRT's V3 plugins, declared by us: it is the same in TensorRT 10, 11 and TensorRT-RTX, so
// one library serves all three and needs no SDK to build. Virtual functions stand in the order of their slots; names
// are ours. With an SDK at hand, check_abi.cpp compares this file with its headers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace bridge::trt {

constexpr int kMaxDims = 8;

struct Dims {
  int32_t rank;
  int64_t extent[kMaxDims];
};

struct TensorDesc {
  Dims dims;
  int32_t dtype;
  int32_t format;
  float scale;
};

struct DynamicTensorDesc {
  TensorDesc desc;
  Dims min, max, opt;
};

struct Field {
  char const* name;
  void const* data;
  int32_t type;
  int32_t length;
};

struct FieldCollection {
  int32_t count;
  Field const* fields;
};

struct InterfaceInfo {
  char const* kind;
  int32_t major, minor;
};

enum DataType : int32_t {
  kFloat = 0,
  kHalf = 1,
  kInt8 = 2,
  kInt32 = 3,
  kBool = 4,
  kUInt8 = 5,
  kFloat8 = 6,  // E4M3
  kBFloat16 = 7,
  kInt64 = 8,
  kInt4 = 9,
  kFloat4 = 10  // E2M1
};
enum Format : int32_t {
  kLinear = 0,
  kChw2 = 1,
  kHwc8 = 2,
  kChw4 = 3,
  kChw16 = 4,
  kChw32 = 5,
  kDhwc8 = 6,
  kCdhw32 = 7,
  kHwc = 8,
  kHwc16 = 11,
  kDhwc = 12
};
enum FieldType : int32_t {
  kFieldFloat32 = 1,
  kFieldFloat64 = 2,
  kFieldInt8 = 3,
  kFieldInt32 = 5,
  kFieldChar = 6,
  kFieldInt64 = 10
};
enum Phase : int32_t { kPhaseBuild = 0, kPhaseRuntime = 1 };
enum Capability : int32_t { kCore = 0, kBuild = 1, kRuntime = 2 };
enum DimensionOperation : int32_t { kSum = 0, kProd = 1, kMax = 2, kMin = 3, kSub = 4, kFloorDiv = 7, kCeilDiv = 8 };

// ---- expressions: two-word handles whose second word points to the object with the virtual functions ----

struct DimensionExpr;

struct ExprBuilderImpl {
  virtual ~ExprBuilderImpl() = default;
  virtual DimensionExpr const* constant(int64_t value) = 0;
  virtual DimensionExpr const* operation(int32_t op, DimensionExpr const& a, DimensionExpr const& b) = 0;
  virtual DimensionExpr const* declare_size_tensor(int32_t output, DimensionExpr const& opt,
                                                   DimensionExpr const& upper) = 0;
};

struct DimensionExprImpl {
  virtual ~DimensionExprImpl() = default;
  virtual bool is_constant() const = 0;
  virtual int64_t constant_value() const = 0;
  virtual bool is_size_tensor() const = 0;
};

struct ExprBuilder {
  void* vtable;
  ExprBuilderImpl* impl;
};

struct DimensionExpr {
  void* vtable;
  DimensionExprImpl* impl;
};

struct DimsExprs {
  int32_t rank;
  DimensionExpr const* extent[kMaxDims];
};

static_assert(sizeof(Dims) == 72 && sizeof(TensorDesc) == 88 && sizeof(DynamicTensorDesc) == 304);
static_assert(sizeof(Field) == 24 && sizeof(FieldCollection) == 16 && sizeof(DimsExprs) == 72);
static_assert(sizeof(ExprBuilder) == 16 && sizeof(DimensionExpr) == 16 && sizeof(InterfaceInfo) == 16);

// ---- interfaces -------------------------------------------------------------------------------

struct Versioned {
  virtual int32_t api_language() const noexcept { return 0; }  // C++
  virtual InterfaceInfo interface_info() const noexcept = 0;
  virtual ~Versioned() noexcept = default;
};

struct PluginV3 : Versioned {
  InterfaceInfo interface_info() const noexcept final { return {"PLUGIN", 1, 0}; }
  virtual void* capability_interface(int32_t type) noexcept = 0;
  virtual PluginV3* clone() noexcept = 0;
};

struct PluginCore : Versioned {
  InterfaceInfo interface_info() const noexcept final { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual char const* plugin_name() const noexcept = 0;
  virtual char const* plugin_version() const noexcept = 0;
  virtual char const* plugin_namespace() const noexcept = 0;
};

struct PluginBuild : Versioned {
  InterfaceInfo interface_info() const noexcept final { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configure(DynamicTensorDesc const* in, int32_t num_in, DynamicTensorDesc const* out,
                            int32_t num_out) noexcept = 0;
  virtual int32_t output_dtypes(int32_t* out, int32_t num_out, int32_t const* in, int32_t num_in) const noexcept = 0;
  virtual int32_t output_shapes(DimsExprs const* in, int32_t num_in, DimsExprs const* shape_in, int32_t num_shape_in,
                                DimsExprs* out, int32_t num_out, ExprBuilder& builder) noexcept = 0;
  virtual bool supports_format(int32_t position, DynamicTensorDesc const* in_out, int32_t num_in,
                               int32_t num_out) noexcept = 0;
  virtual int32_t num_outputs() const noexcept = 0;
  virtual size_t workspace_size(DynamicTensorDesc const* in, int32_t num_in, DynamicTensorDesc const* out,
                                int32_t num_out) const noexcept = 0;
  virtual int32_t valid_tactics(int32_t* /*tactics*/, int32_t /*count*/) noexcept { return 0; }
  virtual int32_t num_tactics() noexcept { return 0; }
  virtual char const* timing_cache_id() noexcept { return nullptr; }
  virtual int32_t format_combination_limit() noexcept { return 100; }
  virtual char const* metadata() noexcept { return nullptr; }
};

struct PluginRuntime : Versioned {
  InterfaceInfo interface_info() const noexcept final { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t set_tactic(int32_t /*tactic*/) noexcept { return 0; }
  virtual int32_t on_shape_change(TensorDesc const* in, int32_t num_in, TensorDesc const* out,
                                  int32_t num_out) noexcept = 0;
  virtual int32_t enqueue(TensorDesc const* in, TensorDesc const* out, void const* const* inputs, void* const* outputs,
                          void* workspace, cudaStream_t stream) noexcept = 0;
  virtual PluginV3* attach_to_context(void* resources) noexcept = 0;
  virtual FieldCollection const* fields_to_serialize() noexcept = 0;
};

struct PluginCreator : Versioned {
  InterfaceInfo interface_info() const noexcept final { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  virtual PluginV3* create_plugin(char const* name, FieldCollection const* fields, int32_t phase) noexcept = 0;
  virtual FieldCollection const* field_names() noexcept = 0;
  virtual char const* plugin_name() const noexcept = 0;
  virtual char const* plugin_version() const noexcept = 0;
  virtual char const* plugin_namespace() const noexcept = 0;
};

}  // namespace bridge::trt
