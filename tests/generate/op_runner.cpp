// Runs an op struct of this program on the current GPU, without a host:
//
//   op_runner OP FOLDER [tactic=N] [offset=BYTES] [capture] [threads=N] DTYPE:EXTENT,EXTENT,... for each input
//
// reads the inputs from FOLDER/in0 and so on, writes outputs to FOLDER/out0 and so on. offset: of all tensors in
// memory. capture: the first call of all is captured into a CUDA graph, which then runs. Fails where memory behind the
// workspace or an output was written, or where a second run gives other bytes.
#include <bridge/core/infer.h>
#include <bridge/core/op.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

using namespace bridge;

namespace {

constexpr size_t kFence = 4096;
constexpr unsigned char kPattern = 0xA5;

void check(cudaError_t status, char const* what) {
  require(status == cudaSuccess, what, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

// Device memory with a fence behind it.
struct Memory {
  Memory(size_t bytes, size_t offset) : bytes(bytes), offset(offset) {
    check(cudaMalloc(&start, offset + bytes + kFence), "cudaMalloc");
    check(cudaMemset(start, kPattern, offset + bytes + kFence), "cudaMemset");
  }
  char* data() const { return static_cast<char*>(start) + offset; }
  void write(std::vector<char> const& content) {
    check(cudaMemcpy(data(), content.data(), bytes, cudaMemcpyDefault), "copy");
  }
  std::vector<char> read() const {
    std::vector<char> content(bytes + kFence);
    check(cudaMemcpy(content.data(), data(), bytes + kFence, cudaMemcpyDefault), "copy");
    for (size_t i = bytes; i < content.size(); ++i)
      require(static_cast<unsigned char>(content[i]) == kPattern, "byte ", i - bytes, " behind memory was written");
    content.resize(bytes);
    return content;
  }
  void* start = nullptr;
  size_t bytes, offset;
};

struct Options {
  int tactic = -1, threads = 1;
  size_t offset = 0;
  bool capture = false;
};

DType dtype_of(std::string const& name) {
  for (DType dtype : kDTypes)
    if (name == dtype_name(dtype)) return dtype;
  require(false, "no dtype ", name);
  return DType::kUnsupported;
}

size_t bytes_of(Tensor const& tensor) {
  size_t const sizes[] = {4, 2, 2, 4, 8, 1};
  return tensor.numel() * sizes[static_cast<int>(tensor.dtype)];
}

Tensor parse(std::string const& text) {
  Tensor tensor;
  if (text == "absent") return tensor;
  size_t const colon = text.find(':');
  tensor.dtype = dtype_of(text.substr(0, colon));
  tensor.rank = 0;
  for (char const* place = text.c_str() + colon + 1; *place;) {
    char* end = nullptr;
    tensor.sizes[tensor.rank++] = std::strtoll(place, &end, 10);
    place = *end ? end + 1 : end;
  }
  return tensor;
}

std::vector<char> file(std::string const& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void enqueue(Op const& op, std::vector<Tensor> const& in, std::vector<Tensor> const& out, void* workspace,
             cudaStream_t stream, bool capture) {
  if (!capture) return check(op.run(in.data(), out.data(), workspace, stream), "run");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin");
  check(op.run(in.data(), out.data(), workspace, stream), "run");
  check(cudaStreamEndCapture(stream, &graph), "end");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(exec, stream), "launch");
  check(cudaStreamSynchronize(stream), "replay");
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
}

void run(std::string const& name, std::string const& folder, Options const& options, std::vector<Tensor> in,
         bool writes) {
  OpType const* type = find_op(name);
  require(type != nullptr, "no op ", name);
  auto op = type->create();
  std::vector<Shape> shapes;
  for (Tensor const& each : in) shapes.push_back(shape_of(each));
  std::vector<Tensor> out = infer_outputs(*type, *op, in, shapes);
  op->tactic = options.tactic;
  if (writes) {
    std::printf("tactics:");
    for (int each : op->tactics(in.data(), out.data())) std::printf(" %d", each);
    std::printf("\n");
  }
  Memory workspace(op->workspace(in.data(), out.data()), 0);
  std::vector<Memory> memory;
  for (size_t i = 0; i < in.size(); ++i) {
    memory.emplace_back(in[i].present() ? bytes_of(in[i]) : 0, options.offset);
    if (!in[i].present()) continue;
    memory.back().write(file(folder + "/in" + std::to_string(i)));
    in[i].data = memory.back().data();
  }
  for (Tensor& each : out) {
    memory.emplace_back(bytes_of(each), options.offset);
    each.data = memory.back().data();
  }
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  enqueue(*op, in, out, workspace.data(), stream, options.capture);
  check(cudaStreamSynchronize(stream), "first run");
  std::vector<std::vector<char>> first;
  for (size_t i = 0; i < out.size(); ++i) first.push_back(memory[in.size() + i].read());
  if (!options.capture) op->prepare(in.data(), out.data());
  enqueue(*op, in, out, workspace.data(), stream, false);
  check(cudaStreamSynchronize(stream), "second run");
  workspace.read();
  for (size_t i = 0; i < out.size(); ++i) {
    require(memory[in.size() + i].read() == first[i], "a second run differs in output ", i);
    if (writes)
      std::ofstream(folder + "/out" + std::to_string(i), std::ios::binary).write(first[i].data(), first[i].size());
  }
}

}  // namespace

int main(int count, char** words) try {
  require(count > 3, "too few arguments");
  Options options;
  std::vector<Tensor> in;
  for (int i = 3; i < count; ++i) {
    std::string const word = words[i];
    if (word.rfind("tactic=", 0) == 0)
      options.tactic = std::atoi(word.c_str() + 7);
    else if (word.rfind("offset=", 0) == 0)
      options.offset = std::atoi(word.c_str() + 7);
    else if (word.rfind("threads=", 0) == 0)
      options.threads = std::atoi(word.c_str() + 8);
    else if (word == "capture")
      options.capture = true;
    else
      in.push_back(parse(word));
  }
  std::vector<std::thread> threads;
  std::vector<std::string> errors(options.threads);
  for (int i = 0; i < options.threads; ++i) {
    threads.emplace_back([&, i] {
      try {
        run(words[1], words[2], options, in, i == 0);
      } catch (std::exception const& error) {
        errors[i] = error.what();
      }
    });
  }
  for (auto& each : threads) each.join();
  for (auto const& each : errors) require(each.empty(), each);
} catch (std::exception const& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
