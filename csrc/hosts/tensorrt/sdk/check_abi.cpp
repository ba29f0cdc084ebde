// Compares abi.h with the headers of a TensorRT SDK; built, and run by the build, only where there is one
// (BRIDGE_TENSORRT_ROOT). Sizes, offsets and enumerators that differ do not compile; a virtual function in another slot
// is named, and the program fails.
#include <NvInferRuntime.h>

#include <cstdio>
#include <cstring>

#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/registry.h"

namespace {

namespace nv = nvinfer1;
namespace our = bridge::trt;

template <class Ours, class Theirs>
constexpr bool same_layout = sizeof(Ours) == sizeof(Theirs) && alignof(Ours) == alignof(Theirs);

static_assert(same_layout<our::Dims, nv::Dims> && our::kMaxDims == nv::Dims::MAX_DIMS);
static_assert(offsetof(our::Dims, extent) == offsetof(nv::Dims, d));
static_assert(same_layout<our::DimsExprs, nv::DimsExprs>);
static_assert(same_layout<our::TensorDesc, nv::PluginTensorDesc>);
static_assert(offsetof(our::TensorDesc, dtype) == offsetof(nv::PluginTensorDesc, type));
static_assert(offsetof(our::TensorDesc, format) == offsetof(nv::PluginTensorDesc, format));
static_assert(offsetof(our::TensorDesc, scale) == offsetof(nv::PluginTensorDesc, scale));
static_assert(same_layout<our::DynamicTensorDesc, nv::DynamicPluginTensorDesc>);
static_assert(offsetof(our::DynamicTensorDesc, min) == offsetof(nv::DynamicPluginTensorDesc, min));
static_assert(offsetof(our::DynamicTensorDesc, max) == offsetof(nv::DynamicPluginTensorDesc, max));
static_assert(offsetof(our::DynamicTensorDesc, opt) == offsetof(nv::DynamicPluginTensorDesc, opt));
static_assert(same_layout<our::Field, nv::PluginField>);
static_assert(offsetof(our::Field, data) == offsetof(nv::PluginField, data));
static_assert(offsetof(our::Field, type) == offsetof(nv::PluginField, type));
static_assert(offsetof(our::Field, length) == offsetof(nv::PluginField, length));
static_assert(same_layout<our::FieldCollection, nv::PluginFieldCollection>);
static_assert(same_layout<our::ExprBuilder, nv::IExprBuilder>);
static_assert(same_layout<our::DimensionExpr, nv::IDimensionExpr>);
static_assert(same_layout<our::InterfaceInfo, nv::InterfaceInfo>);

template <class Ours, class Theirs>
constexpr bool same(Ours ours, Theirs theirs) {
  return static_cast<int32_t>(ours) == static_cast<int32_t>(theirs);
}

static_assert(same(our::kFloat, nv::DataType::kFLOAT) && same(our::kHalf, nv::DataType::kHALF));
static_assert(same(our::kInt32, nv::DataType::kINT32) && same(our::kInt64, nv::DataType::kINT64));
static_assert(same(our::kBFloat16, nv::DataType::kBF16) && same(our::kInt8, nv::DataType::kINT8));
static_assert(same(our::kBool, nv::DataType::kBOOL) && same(our::kUInt8, nv::DataType::kUINT8));
static_assert(same(our::kFloat8, nv::DataType::kFP8) && same(our::kInt4, nv::DataType::kINT4));
static_assert(same(our::kFloat4, nv::DataType::kFP4));
static_assert(same(our::kLinear, nv::TensorFormat::kLINEAR) && same(our::kChw2, nv::TensorFormat::kCHW2));
static_assert(same(our::kHwc8, nv::TensorFormat::kHWC8) && same(our::kHwc, nv::TensorFormat::kHWC));
static_assert(same(our::kChw4, nv::TensorFormat::kCHW4) && same(our::kChw16, nv::TensorFormat::kCHW16));
static_assert(same(our::kChw32, nv::TensorFormat::kCHW32) && same(our::kCdhw32, nv::TensorFormat::kCDHW32));
static_assert(same(our::kDhwc8, nv::TensorFormat::kDHWC8) && same(our::kDhwc, nv::TensorFormat::kDHWC));
static_assert(same(our::kHwc16, nv::TensorFormat::kHWC16));
static_assert(same(our::kFieldFloat32, nv::PluginFieldType::kFLOAT32) &&
              same(our::kFieldFloat64, nv::PluginFieldType::kFLOAT64));
static_assert(same(our::kFieldInt8, nv::PluginFieldType::kINT8) && same(our::kFieldInt32, nv::PluginFieldType::kINT32));
static_assert(same(our::kFieldInt64, nv::PluginFieldType::kINT64) && same(our::kFieldChar, nv::PluginFieldType::kCHAR));
static_assert(same(our::kCore, nv::PluginCapabilityType::kCORE) && same(our::kBuild, nv::PluginCapabilityType::kBUILD));
static_assert(same(our::kRuntime, nv::PluginCapabilityType::kRUNTIME));
static_assert(same(our::kPhaseBuild, nv::TensorRTPhase::kBUILD));
static_assert(same(our::kPhaseRuntime, nv::TensorRTPhase::kRUNTIME));
static_assert(same(our::kSum, nv::DimensionOperation::kSUM) && same(our::kProd, nv::DimensionOperation::kPROD));
static_assert(same(our::kMax, nv::DimensionOperation::kMAX) && same(our::kMin, nv::DimensionOperation::kMIN));
static_assert(same(our::kSub, nv::DimensionOperation::kSUB) &&
              same(our::kFloorDiv, nv::DimensionOperation::kFLOOR_DIV));
static_assert(same(our::kCeilDiv, nv::DimensionOperation::kCEIL_DIV));

// Of the registry; this SDK has one of them.
constexpr our::RegistrySlots kRegistry = NV_TENSORRT_MAJOR >= 11 ? our::kRegistry11 : our::kRegistry10;

// A pointer to a virtual member function holds 1 + its offset in the virtual table (Itanium C++ ABI, 2.3).
template <class Member>
int64_t slot(Member member) {
  static_assert(sizeof(member) == 2 * sizeof(int64_t));
  int64_t words[2];
  std::memcpy(words, &member, sizeof(member));
  return words[0];
}

bool differs(char const* name, int64_t ours, int64_t theirs) {
  if (ours != theirs) std::fprintf(stderr, "%s: our slot is at %ld, the SDK's at %ld\n", name, ours - 1, theirs - 1);
  return ours != theirs;
}

}  // namespace

int main() {
  int failures = 0;
#define SAME_SLOT(Ours, ours, Theirs, theirs) \
  failures += differs(#Theirs "::" #theirs, slot(&our::Ours::ours), slot(&nv::Theirs::theirs))

  SAME_SLOT(Versioned, api_language, IVersionedInterface, getAPILanguage);
  SAME_SLOT(Versioned, interface_info, IVersionedInterface, getInterfaceInfo);
  SAME_SLOT(PluginV3, capability_interface, IPluginV3, getCapabilityInterface);
  SAME_SLOT(PluginV3, clone, IPluginV3, clone);
  SAME_SLOT(PluginCore, plugin_name, IPluginV3OneCore, getPluginName);
  SAME_SLOT(PluginCore, plugin_version, IPluginV3OneCore, getPluginVersion);
  SAME_SLOT(PluginCore, plugin_namespace, IPluginV3OneCore, getPluginNamespace);
  SAME_SLOT(PluginBuild, configure, IPluginV3OneBuild, configurePlugin);
  SAME_SLOT(PluginBuild, output_dtypes, IPluginV3OneBuild, getOutputDataTypes);
  SAME_SLOT(PluginBuild, output_shapes, IPluginV3OneBuild, getOutputShapes);
  SAME_SLOT(PluginBuild, supports_format, IPluginV3OneBuild, supportsFormatCombination);
  SAME_SLOT(PluginBuild, num_outputs, IPluginV3OneBuild, getNbOutputs);
  SAME_SLOT(PluginBuild, workspace_size, IPluginV3OneBuild, getWorkspaceSize);
  SAME_SLOT(PluginBuild, valid_tactics, IPluginV3OneBuild, getValidTactics);
  SAME_SLOT(PluginBuild, num_tactics, IPluginV3OneBuild, getNbTactics);
  SAME_SLOT(PluginBuild, timing_cache_id, IPluginV3OneBuild, getTimingCacheID);
  SAME_SLOT(PluginBuild, format_combination_limit, IPluginV3OneBuild, getFormatCombinationLimit);
  SAME_SLOT(PluginBuild, metadata, IPluginV3OneBuild, getMetadataString);
  SAME_SLOT(PluginRuntime, set_tactic, IPluginV3OneRuntime, setTactic);
  SAME_SLOT(PluginRuntime, on_shape_change, IPluginV3OneRuntime, onShapeChange);
  SAME_SLOT(PluginRuntime, enqueue, IPluginV3OneRuntime, enqueue);
  SAME_SLOT(PluginRuntime, attach_to_context, IPluginV3OneRuntime, attachToContext);
  SAME_SLOT(PluginRuntime, fields_to_serialize, IPluginV3OneRuntime, getFieldsToSerialize);
  SAME_SLOT(PluginCreator, create_plugin, IPluginCreatorV3One, createPlugin);
  SAME_SLOT(PluginCreator, field_names, IPluginCreatorV3One, getFieldNames);
  SAME_SLOT(PluginCreator, plugin_name, IPluginCreatorV3One, getPluginName);
  SAME_SLOT(PluginCreator, plugin_version, IPluginCreatorV3One, getPluginVersion);
  SAME_SLOT(PluginCreator, plugin_namespace, IPluginCreatorV3One, getPluginNamespace);
  SAME_SLOT(ExprBuilderImpl, constant, apiv::VExprBuilder, constant);
  SAME_SLOT(ExprBuilderImpl, operation, apiv::VExprBuilder, operation);
  SAME_SLOT(DimensionExprImpl, is_constant, apiv::VDimensionExpr, isConstant);
  SAME_SLOT(DimensionExprImpl, constant_value, apiv::VDimensionExpr, getConstantValue);

  // Overloaded in TensorRT 10.
  using Register = bool (nv::IPluginRegistry::*)(nv::IPluginCreatorInterface&, char const*) noexcept;
  constexpr int64_t size = sizeof(void*);
  failures += differs("IPluginRegistry::registerCreator", 1 + size * kRegistry.register_creator,
                      slot(static_cast<Register>(&nv::IPluginRegistry::registerCreator)));
  failures +=
      differs("IPluginRegistry::getCreator", 1 + size * kRegistry.get_creator, slot(&nv::IPluginRegistry::getCreator));
  return failures != 0;
}
