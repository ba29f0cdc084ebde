// Runs the engine of a folder that `bridge export` wrote:
//
//   run_folder FOLDER RESULTS NAME:EXTENTS=FILE...      run_folder net results x:2x3x32x32=x.bin
//
// A file holds the elements of an input, row by row. RESULTS is a folder; it gets NAME.bin for every output, and the
// outputs' extents are printed.
#include <dlfcn.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <vector>

#include "tensors.h"

namespace fs = std::filesystem;
using Bytes = std::vector<char>;

struct Logger : nvinfer1::ILogger {
  void log(Severity severity, char const* text) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << "[TensorRT] " << text << '\n';
  }
};

struct Input {
  nvinfer1::Dims dims{};
  Bytes data;
  Memory memory;
};

Bytes read(fs::path const& path) {
  std::ifstream file(path, std::ios::binary);
  require(file, "cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

// "x:2x3=x.bin", or "x:=x.bin" of a scalar.
void parse(std::string const& argument, std::map<std::string, Input>& inputs) {
  size_t const colon = argument.find(':'), equals = argument.find('=', colon);
  require(colon != std::string::npos && equals != std::string::npos, argument + " is not NAME:EXTENTS=FILE");
  Input& input = inputs[argument.substr(0, colon)];
  std::istringstream extents(argument.substr(colon + 1, equals - colon - 1));
  for (std::string extent; std::getline(extents, extent, 'x');) {
    bool const is_number = !extent.empty() && extent.find_first_not_of("0123456789") == std::string::npos;
    require(is_number && input.dims.nbDims < nvinfer1::Dims::MAX_DIMS, argument + " has extents that are none");
    input.dims.d[input.dims.nbDims++] = std::stoll(extent);
  }
  input.data = read(argument.substr(equals + 1));
}

// Registers the folder's plugins with TensorRT. loadLibrary for each of the other libraries would do as well.
void register_plugins(fs::path const& folder) {
  fs::path const library = fs::absolute(folder / "plugins/libbridge_autoload.so");
  if (!fs::exists(library)) return;  // the engine needs none
  require(dlopen(library.c_str(), RTLD_NOW), "the plugins do not load");
  int32_t count = 0;
  getPluginRegistry()->getAllCreators(&count);
  std::cout << count << " plugins are registered\n";
}

void run(fs::path const& folder, fs::path const& results, std::map<std::string, Input>& inputs) {
  static Logger logger;  // TensorRT keeps it
  register_plugins(folder);
  Bytes const plan = read(folder / "model.plan");
  int32_t gpus = 0;
  check(cudaGetDeviceCount(&gpus), "there is no GPU to run on");
  std::unique_ptr<nvinfer1::IRuntime> const runtime(nvinfer1::createInferRuntime(logger));
  require(runtime, "TensorRT does not start: see its errors");
  runtime->setEngineHostCodeAllowed(true);  // a plan may hold its plugin libraries
  std::unique_ptr<nvinfer1::ICudaEngine> const engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
  require(engine, "TensorRT does not load the engine; manifest.json says which version and GPU it is for");
  std::unique_ptr<nvinfer1::IExecutionContext> const context(engine->createExecutionContext());
  require(context, "TensorRT has no memory for a context");
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "no stream");

  std::map<std::string, Output> outputs;
  for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
    std::string const name = engine->getIOTensorName(i);
    if (engine->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kOUTPUT) {
      require(context->setOutputAllocator(name.c_str(), &outputs[name]), "no output " + name);
      continue;
    }
    require(inputs.count(name), "the input " + name + " is missing");
    Input& input = inputs[name];
    require(context->setInputShape(name.c_str(), input.dims), name + " cannot be " + text(input.dims));
    size_t const bytes = volume(input.dims) * element_size(engine->getTensorDataType(name.c_str()));
    require(input.data.size() == bytes,
            name + ": the file has " + std::to_string(input.data.size()) + " bytes, expected " + std::to_string(bytes));
    input.memory.resize(bytes);
    check(cudaMemcpyAsync(input.memory.data, input.data.data(), bytes, cudaMemcpyHostToDevice, stream), name);
    require(context->setTensorAddress(name.c_str(), input.memory.data), "no input " + name);
  }
  require(inputs.size() + outputs.size() == size_t(engine->getNbIOTensors()), "the engine has no input of that name");

  require(context->enqueueV3(stream), "TensorRT does not run the engine: see its errors");
  check(cudaStreamSynchronize(stream), "the engine failed on the GPU");
  fs::create_directories(results);
  for (auto const& [name, output] : outputs) {
    Bytes data(volume(output.dims) * element_size(engine->getTensorDataType(name.c_str())));
    check(cudaMemcpy(data.data(), output.memory.data, data.size(), cudaMemcpyDeviceToHost), name);
    require(std::ofstream(results / (name + ".bin"), std::ios::binary).write(data.data(), data.size()),
            "cannot write to " + results.string());
    std::cout << name << ' ' << text(output.dims) << '\n';
  }
  cudaStreamDestroy(stream);
}

int main(int argc, char** argv) {
  try {
    require(argc >= 3, "usage: run_folder FOLDER RESULTS NAME:EXTENTS=FILE...");
    std::map<std::string, Input> inputs;
    for (int i = 3; i < argc; ++i) parse(argv[i], inputs);
    run(argv[1], argv[2], inputs);
    return 0;
  } catch (std::exception const& error) {
    std::cerr << "run_folder: " << error.what() << '\n';
    return 1;
  }
}
