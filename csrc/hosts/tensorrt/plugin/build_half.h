// The half of a plugin that a builder asks: shapes, dtypes, formats, scratch memory and tactics.
#pragma once

#include <string>
#include <vector>

#include "hosts/tensorrt/abi.h"
#include "hosts/tensorrt/plugin/plugin_op.h"

namespace bridge {

class BuildHalf final : public trt::PluginBuild {
 public:
  explicit BuildHalf(PluginOp const& plugin) : plugin_(plugin) {}
  // Takes what `configure` found over.
  void copy_state(BuildHalf const& other) {
    tactics_ = other.tactics_, timing_id_ = other.timing_id_, metadata_ = other.metadata_;
  }

  int32_t configure(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                    int32_t num_out) noexcept override;
  int32_t output_dtypes(int32_t* out, int32_t num_out, int32_t const* in, int32_t num_in) const noexcept override;
  int32_t output_shapes(trt::DimsExprs const* in, int32_t num_in, trt::DimsExprs const*, int32_t, trt::DimsExprs* out,
                        int32_t num_out, trt::ExprBuilder& builder) noexcept override;
  bool supports_format(int32_t position, trt::DynamicTensorDesc const* in_out, int32_t num_in,
                       int32_t num_out) noexcept override;
  int32_t num_outputs() const noexcept override { return plugin_.num_outputs(); }
  size_t workspace_size(trt::DynamicTensorDesc const* in, int32_t num_in, trt::DynamicTensorDesc const* out,
                        int32_t num_out) const noexcept override;
  int32_t num_tactics() noexcept override;
  int32_t valid_tactics(int32_t* tactics, int32_t count) noexcept override;
  char const* timing_cache_id() noexcept override { return timing_id_.empty() ? nullptr : timing_id_.c_str(); }
  char const* metadata() noexcept override { return metadata_.empty() ? nullptr : metadata_.c_str(); }

 private:
  PluginOp const& plugin_;
  std::vector<int> tactics_;  // the op's numbers of them, and what names their times; set by configure
  std::string timing_id_;
  std::string metadata_;  // the tactic that the op would choose
};

}  // namespace bridge
