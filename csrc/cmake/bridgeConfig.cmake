# bridge's CMake package: libraries of ops, for PyTorch and TensorRT.
#
#   project(acme LANGUAGES CXX)
#   find_package(bridge REQUIRED)        # -Dbridge_DIR=$(bridge cmake-dir); enables CUDA
#   bridge_add_ops(acme PACKAGE acme_corr SOURCES csrc/corr.cu)
#
# bridge_add_ops(<namespace> SOURCES <file>... [PACKAGE <package>] [INCLUDE_DIRECTORIES <folder>...] [LIBRARIES <target>...])
#   makes lib<namespace>_plugins.so, the ops as TensorRT plugins (links neither torch nor TensorRT), and
#   lib<namespace>_torch.so, the ops as PyTorch ops (torch's stable ABI). Both are installed into <package>/lib, where
#   bridge looks for the libraries of a package.
#
# Settings, also read from the environment:
#   BRIDGE_CUDA_ARCHITECTURES  GPUs to compile for, as in CMAKE_CUDA_ARCHITECTURES, which wins where it is set
#   BRIDGE_TORCH               OFF: the plugin library alone; needs no torch
#   BRIDGE_WERROR              ON: warnings in host code are errors
#   BRIDGE_FAST_COMPILE        ON: kernels compile in half the time, and are slow; for machines that do not run them
cmake_minimum_required(VERSION 3.24...4.0)

# Holds core/, hosts/ and triton/: csrc of bridge's sources, include/bridge of an installed package.
get_filename_component(BRIDGE_ROOT "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

function(_bridge_setting name default)
  if("${${name}}" STREQUAL "" AND NOT "$ENV{${name}}" STREQUAL "")
    set(${name} "$ENV{${name}}" PARENT_SCOPE)
  elseif("${${name}}" STREQUAL "")
    set(${name} "${default}" PARENT_SCOPE)
  endif()
endfunction()

# 120 without a suffix adds PTX, for later GPUs. Code for 8.6 does not run on 8.7 (Orin), nor for 10.0 on 11.0 (Thor):
# these GPUs of Jetson modules are beside no x86 processor, and nvcc knows 11.0 since CUDA 13.
_bridge_setting(BRIDGE_CUDA_ARCHITECTURES "75-real;80-real;86-real;89-real;90a-real;120")
_bridge_setting(BRIDGE_TORCH ON)
_bridge_setting(BRIDGE_WERROR OFF)
_bridge_setting(BRIDGE_FAST_COMPILE OFF)

# --- the CUDA compiler
set(_bridge_nvcc nvcc)
if(NOT "$ENV{CUDACXX}" STREQUAL "")
  set(_bridge_nvcc "$ENV{CUDACXX}")
endif()
find_program(BRIDGE_NVCC NAMES "${_bridge_nvcc}" HINTS "$ENV{CUDA_HOME}/bin" PATHS /usr/local/cuda/bin)
if(NOT CMAKE_CUDA_COMPILER AND NOT BRIDGE_NVCC)
  message(FATAL_ERROR "No CUDA compiler (${_bridge_nvcc}). Put nvcc of CUDA 12.8 or later on PATH or name it in CUDACXX; or "
                      "`pip install $(python -m bridge_build)` gets one from the Python index.")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER "${BRIDGE_NVCC}")
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "${BRIDGE_CUDA_ARCHITECTURES}")
endif()
# nvcc looks for its libraries in lib64; the packages of the Python index keep them in lib.
get_filename_component(_bridge_cuda_root "${CMAKE_CUDA_COMPILER}" REALPATH)
cmake_path(GET _bridge_cuda_root PARENT_PATH _bridge_cuda_root)
cmake_path(GET _bridge_cuda_root PARENT_PATH _bridge_cuda_root)
if(EXISTS "${_bridge_cuda_root}/lib/libcudart_static.a" AND NOT EXISTS "${_bridge_cuda_root}/lib64")
  set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${_bridge_cuda_root}/lib")
endif()
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
enable_language(CUDA)
if(BRIDGE_FAST_COMPILE AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  set(BRIDGE_FAST_COMPILE OFF) # such an nvcc has no -Ofast-compile
endif()

# Language, visibility and warnings of everything that a library is made of.
function(_bridge_compile target namespace)
  set_target_properties(${target} PROPERTIES
    CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${target} SYSTEM PRIVATE "${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}")
  target_compile_definitions(${target} PRIVATE "BRIDGE_NAMESPACE=\"${namespace}\"")
  set(options -Wall -Wextra "-ffile-prefix-map=${PROJECT_SOURCE_DIR}=csrc" "-ffile-prefix-map=${BRIDGE_ROOT}=csrc")
  if(BRIDGE_WERROR)
    list(APPEND options -Werror)
  endif()
  list(JOIN options "," options_of_nvcc)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${options}>" "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${options_of_nvcc}>")
  if(BRIDGE_FAST_COMPILE)
    target_compile_definitions(${target} PRIVATE BRIDGE_FAST_COMPILE)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--Ofast-compile=max>")
  endif()
  # bridge's own sources of a target are one file to the compiler: headers take most of the time of each.
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
endfunction()

# A shared library of a namespace's ops and a host's sources, with bridge's exports and nothing undefined.
function(_bridge_host target namespace package)
  add_library(${target} SHARED ${ARGN} $<TARGET_OBJECTS:${namespace}_ops>)
  _bridge_compile(${target} ${namespace})
  target_include_directories(${target} PRIVATE "${BRIDGE_ROOT}")
  target_link_options(${target} PRIVATE
    "LINKER:--version-script=${BRIDGE_ROOT}/exports.map" LINKER:--exclude-libs,ALL LINKER:--no-undefined)
  set_target_properties(${target} PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib" LINKER_LANGUAGE CUDA
    LINK_DEPENDS "${BRIDGE_ROOT}/exports.map" BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "")
  install(TARGETS ${target} LIBRARY DESTINATION "${package}/lib")
endfunction()

# The folder of the torch that builds are for.
function(_bridge_find_torch result)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
      "import importlib.util as u, pathlib as p; s = u.find_spec('torch'); print(p.Path(s.origin).parent if s else '')"
    OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  if(NOT EXISTS "${root}/include/torch/csrc/stable/c/shim.h")
    message(FATAL_ERROR "${Python_EXECUTABLE} has no torch 2.10 or later ('${root}'). Install one, or set "
                        "BRIDGE_TORCH=OFF to build the plugin library alone.")
  endif()
  set(${result} "${root}" PARENT_SCOPE)
endfunction()

function(_bridge_link_torch target)
  _bridge_find_torch(root)
  target_include_directories(${target} SYSTEM PRIVATE "${root}/include")
  # The stable ABI as torch 2.10 has it: the library loads in that version and every later one.
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000 USE_CUDA)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${root}/include=torch>")
  # Found by name when the library loads, because `import torch` has loaded them: no path to them is recorded.
  foreach(library IN ITEMS torch_cpu torch_cuda torch c10)
    if(EXISTS "${root}/lib/lib${library}.so")
      target_link_libraries(${target} PRIVATE "${root}/lib/lib${library}.so")
    endif()
  endforeach()
  target_link_options(${target} PRIVATE LINKER:--as-needed LINKER:--allow-shlib-undefined)
endfunction()

# CMake links CUDA's runtime where there is a .cu file; sources without one may hold kernels as fat binaries.
function(_bridge_link_runtime target)
  if("${ARGN}" MATCHES "\\.cu(;|$)")
    return()
  endif()
  find_library(BRIDGE_CUDART cudart_static REQUIRED NO_DEFAULT_PATH
               PATHS "${_bridge_cuda_root}" ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} PATH_SUFFIXES lib64 lib)
  target_link_libraries(${target} PRIVATE "${BRIDGE_CUDART}" pthread dl rt)
endfunction()

function(_bridge_check_arguments namespace package)
  if(NOT namespace MATCHES "^[a-z_][a-z0-9_]*$")
    message(FATAL_ERROR "bridge_add_ops: the namespace is '${namespace}'; expected a name such as acme: lower case, digits, _")
  endif()
  if(NOT package MATCHES "^[A-Za-z_][A-Za-z0-9_/]*$")
    message(FATAL_ERROR "bridge_add_ops(${namespace} ...): PACKAGE is '${package}'; expected the folder of a Python package")
  endif()
  if(NOT ARGN)
    message(FATAL_ERROR "bridge_add_ops(${namespace} ...): SOURCES names no file")
  endif()
  foreach(source IN LISTS ARGN)
    get_source_file_property(generated "${source}" GENERATED)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" OUTPUT_VARIABLE path)
    if(NOT generated AND NOT EXISTS "${path}")
      message(FATAL_ERROR "bridge_add_ops(${namespace} ...): SOURCES names ${source}, and there is no ${path}")
    endif()
  endforeach()
endfunction()

function(bridge_add_ops namespace)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "PACKAGE" "SOURCES;INCLUDE_DIRECTORIES;LIBRARIES")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "bridge_add_ops(${namespace} ...): unknown arguments ${arg_UNPARSED_ARGUMENTS}; name files after SOURCES")
  endif()
  if(NOT arg_PACKAGE)
    set(arg_PACKAGE "${namespace}")
  endif()
  _bridge_check_arguments("${namespace}" "${arg_PACKAGE}" ${arg_SOURCES})

  # An OBJECT library, because a static one would drop objects that only register themselves.
  file(GLOB core CONFIGURE_DEPENDS "${BRIDGE_ROOT}/core/*.cpp" "${BRIDGE_ROOT}/triton/*.cpp")
  add_library(${namespace}_ops OBJECT ${core} ${arg_SOURCES})
  _bridge_compile(${namespace}_ops ${namespace})
  # <bridge/core/op.h> where bridge is installed, "core/op.h" in its own sources.
  cmake_path(GET BRIDGE_ROOT PARENT_PATH include)
  target_include_directories(${namespace}_ops PRIVATE "${include}" ${arg_INCLUDE_DIRECTORIES})
  target_link_libraries(${namespace}_ops PRIVATE ${arg_LIBRARIES})
  foreach(source IN LISTS arg_SOURCES) # nvcc draws the names of anonymous namespaces; seeded, a second build gives the same bytes
    cmake_path(GET source STEM name)
    set_source_files_properties("${source}" PROPERTIES
      COMPILE_OPTIONS "-frandom-seed=${name}" SKIP_UNITY_BUILD_INCLUSION ON)
  endforeach()

  file(GLOB tensorrt_host CONFIGURE_DEPENDS "${BRIDGE_ROOT}/hosts/tensorrt/*.cpp" "${BRIDGE_ROOT}/hosts/tensorrt/plugin/*.cpp")
  _bridge_host(${namespace}_plugins ${namespace} ${arg_PACKAGE} ${tensorrt_host})
  target_link_libraries(${namespace}_plugins PRIVATE ${arg_LIBRARIES})
  _bridge_link_runtime(${namespace}_plugins ${arg_SOURCES})
  if(BRIDGE_TORCH)
    file(GLOB torch_host CONFIGURE_DEPENDS "${BRIDGE_ROOT}/hosts/torch/*.cpp")
    _bridge_host(${namespace}_torch ${namespace} ${arg_PACKAGE} ${torch_host})
    target_link_libraries(${namespace}_torch PRIVATE ${arg_LIBRARIES})
    _bridge_link_runtime(${namespace}_torch ${arg_SOURCES})
    _bridge_link_torch(${namespace}_torch)
  endif()
endfunction()
