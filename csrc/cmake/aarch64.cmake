# CMake's toolchain for `make plugins-aarch64`: Debian's cross compiler (package g++-aarch64-linux-gnu) for host code. The
# CUDA compiler is one for this machine; it links what its folder has of the runtime, which is aarch64's.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
