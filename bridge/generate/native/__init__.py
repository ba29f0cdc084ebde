"""From a program to a library of plugins: kernels that Triton compiles ahead of time, and op structs in C++."""
