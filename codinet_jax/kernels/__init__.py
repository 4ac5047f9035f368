"""Kernels in CUDA C++, how these are built, and a GPU emulated thread by thread for tests; in Pallas, for TPUs."""
