// A small C interface to the op table, for the loader and for tests.
#include <cstring>

#include "core/device.h"
#include "core/infer.h"
#include "core/library.h"
#include "core/op.h"
#include "hosts/tensorrt/fields.h"

#define BRIDGE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Copies as much as fits, always terminated.
void copy_text(std::string const& text, char* buffer, int32_t size) {
  if (size <= 0 || !buffer) return;
  size_t const length = std::min<size_t>(text.size(), size - 1);
  std::memcpy(buffer, text.data(), length);
  buffer[length] = '\0';
}

int32_t describe(int32_t index, char* buffer, int32_t size, std::string (*text_of)(bridge::OpType const&)) {
  auto const& ops = bridge::op_table();
  if (index < 0 || index >= static_cast<int32_t>(ops.size())) return -1;
  std::string const text = text_of(*ops[index]);
  copy_text(text, buffer, size);
  return static_cast<int32_t>(text.size());
}

std::vector<bridge::Shape> read_shapes(size_t count, int32_t const* ranks, int64_t const* extents) {
  std::vector<bridge::Shape> shapes(count);
  for (size_t i = 0; i < count; ++i) {
    if (ranks[i] < 0) continue;
    shapes[i].rank = 0;
    bridge::require(ranks[i] == 0 || extents, "extents are null");
    for (int32_t d = 0; d < ranks[i]; ++d) shapes[i].append(*extents++);
  }
  return shapes;
}

// The dtype of that name; kUnsupported when kernels have none.
bridge::DType dtype_of(std::string const& name) {
  for (bridge::DType dtype : bridge::kDTypes) {
    if (name == bridge::dtype_name(dtype)) return dtype;
  }
  return bridge::DType::kUnsupported;
}

bridge::OpType const& op_of(char const* name) {
  bridge::require(name != nullptr, "the name is null");
  bridge::OpType const* type = bridge::find_op(name);
  bridge::require(type != nullptr, "there is no op \"", name, "\"");
  return *type;
}

// Throws unless the op takes them; returns those of its outputs, "float32,int64".
std::string infer_dtypes(bridge::OpType const& type, bridge::trt::FieldCollection const* fields,
                         char const* const* dtypes) {
  std::unique_ptr<bridge::Op> const op = type.create();
  if (fields) bridge::read_fields(type, *op, fields);
  bridge::require(dtypes && dtypes[0], "the dtype of the first tensor is null");
  bridge::DType const first = dtype_of(dtypes[0]);
  for (size_t i = 0; i < type.inputs.size(); ++i) {
    if (dtypes[i]) bridge::require_dtype(type, type.inputs[i], dtype_of(dtypes[i]), first, dtypes[i]);
  }
  std::string names;
  for (bridge::Param const& output : type.outputs) {
    names += (names.empty() ? "" : ",") + std::string(bridge::dtype_name(bridge::output_dtype(*op, output, first)));
  }
  return names;
}

}  // namespace

// Which of these functions there are and what they take: the loader refuses a library of another number.
BRIDGE_EXPORT int32_t bridge_loader_abi() { return bridge::kLoaderAbi; }

// The namespace of the ops.
BRIDGE_EXPORT char const* bridge_namespace() { return bridge::kNamespace; }

// Number of ops in the table.
BRIDGE_EXPORT int32_t bridge_num_ops() { return static_cast<int32_t>(bridge::op_table().size()); }

// Writes the schema of op `index`, as torch.library spells it; returns its length, or -1 when there is no such op.
BRIDGE_EXPORT int32_t bridge_schema(int32_t index, char* buffer, int32_t size) {
  return describe(index, buffer, size, bridge::schema);
}

// Writes the dtypes that the first tensor of op `index` takes, as "float32 or float16"; returns the length, or -1.
BRIDGE_EXPORT int32_t bridge_dtypes(int32_t index, char* buffer, int32_t size) {
  return describe(index, buffer, size, [](bridge::OpType const& type) {
    return bridge::accepted_dtypes(type.inputs[0], bridge::DType::kUnsupported);
  });
}

// Infers output shapes. ranks: one for each tensor of the signature, -1 for an absent one; extents: those of the
// present tensors, one after another. out_ranks: one for each output; out_extents: [outputs, 8]. Returns 0, or 1 with a
// message.
BRIDGE_EXPORT int32_t bridge_infer_shapes(char const* name, bridge::trt::FieldCollection const* fields,
                                          int32_t const* ranks, int64_t const* extents, int32_t* out_ranks,
                                          int64_t* out_extents, char* message, int32_t message_size) {
  try {
    bridge::require(ranks && out_ranks && out_extents, "an argument is null");
    bridge::OpType const& type = op_of(name);
    std::unique_ptr<bridge::Op> const op = type.create();
    bridge::read_fields(type, *op, fields);
    auto const outputs = bridge::infer_shapes(type, *op, read_shapes(type.inputs.size(), ranks, extents));
    for (size_t i = 0; i < outputs.size(); ++i) {
      out_ranks[i] = outputs[i].rank;
      for (int d = 0; d < outputs[i].rank; ++d) out_extents[i * bridge::kMaxRank + d] = outputs[i][d].value();
    }
    return 0;
  } catch (std::exception const& error) {
    copy_text(error.what(), message, message_size);
    return 1;
  }
}

// Checks the dtypes of an op's tensors. dtypes: a name for each tensor of the signature, null for an absent one.
// Returns 0 with those of the outputs, "float32,int64", or 1 with a message.
BRIDGE_EXPORT int32_t bridge_infer_dtypes(char const* name, char const* const* dtypes, char* text, int32_t size) {
  try {
    copy_text(infer_dtypes(op_of(name), nullptr, dtypes), text, size);
    return 0;
  } catch (std::exception const& error) {
    copy_text(error.what(), text, size);
    return 1;
  }
}

// The same, of an op with these attributes, which may choose dtypes.
BRIDGE_EXPORT int32_t bridge_infer_dtypes_of(char const* name, bridge::trt::FieldCollection const* fields,
                                             char const* const* dtypes, char* text, int32_t size) {
  try {
    copy_text(infer_dtypes(op_of(name), fields, dtypes), text, size);
    return 0;
  } catch (std::exception const& error) {
    copy_text(error.what(), text, size);
    return 1;
  }
}

// Has plugins choose kernels for such a GPU on this thread, until it is called again; capability 0: for the one that
// is there. They are not to run meanwhile.
BRIDGE_EXPORT void bridge_suppose_device(int32_t capability, int32_t multiprocessors) {
  bridge::supposed_device = {capability, multiprocessors};
}
