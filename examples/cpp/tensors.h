// What a program around an engine needs of its tensors: sizes, extents, and memory on the GPU.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <iostream>
#include <stdexcept>
#include <string>

template <class Condition>
void require(Condition const& condition, std::string const& message) {
  if (!condition) throw std::runtime_error(message);
}

inline void check(cudaError_t status, std::string const& what) {
  require(status == cudaSuccess, what + ": " + cudaGetErrorString(status));
}

inline size_t element_size(nvinfer1::DataType type) {
  using nvinfer1::DataType;
  switch (type) {
    case DataType::kINT64:
      return 8;
    case DataType::kFLOAT:
    case DataType::kINT32:
      return 4;
    case DataType::kHALF:
    case DataType::kBF16:
      return 2;
    case DataType::kINT8:
    case DataType::kUINT8:
    case DataType::kBOOL:
      return 1;
    default:
      throw std::runtime_error("the engine has a tensor of a dtype that bridge does not use");
  }
}

inline size_t volume(nvinfer1::Dims const& dims) {
  size_t count = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) count *= dims.d[i];
  return count;
}

// "2x3x32x32"
inline std::string text(nvinfer1::Dims const& dims) {
  std::string all;
  for (int32_t i = 0; i < dims.nbDims; ++i) all += (i ? "x" : "") + std::to_string(dims.d[i]);
  return all.empty() ? "scalar" : all;
}

struct Memory {  // on the GPU
  void* data = nullptr;
  Memory() = default;
  Memory(Memory const&) = delete;
  void resize(size_t bytes) {
    cudaFree(data);
    data = nullptr;
    check(cudaMalloc(&data, std::max<size_t>(bytes, 1)), "no GPU memory for " + std::to_string(bytes) + " bytes");
  }
  ~Memory() { cudaFree(data); }
};

// An output, whose extents may depend on the inputs' values: they are known when the engine has run.
struct Output : nvinfer1::IOutputAllocator {
  Memory memory;
  nvinfer1::Dims dims{};
  void* reallocateOutputAsync(char const* name, void*, uint64_t bytes, uint64_t, cudaStream_t) noexcept override {
    try {
      memory.resize(bytes);
    } catch (std::exception const& error) {  // none may cross TensorRT
      std::cerr << name << ": " << error.what() << '\n';
    }
    return memory.data;
  }
  void notifyShape(char const*, nvinfer1::Dims const& shape) noexcept override { dims = shape; }
};
