"""Kernels in CUDA C++, and what they share: how they are built, and a GPU emulated thread by thread for their tests."""
