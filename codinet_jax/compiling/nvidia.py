"""NVIDIA GPUs as XLA's compiler asks for them, in place of one that it could ask: device properties, driver, cuDNN."""

# An H100 SXM5 of 80 GB, after NVIDIA's data sheet and CUDA's table of compute capability 9.0.
H100_MEMORY_BYTES = 84_942_979_072
H100 = f"""
gpu_device_info {{
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  device_memory_size: {H100_MEMORY_BYTES}
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  pcie_bandwidth: 34359738368
  clock_rate_ghz: 1.98
  core_count: 132
  fpus_per_core: 128
  cuda_compute_capability {{ major: 9 }}
  device_address_bits: 64
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "NVIDIA H100 80GB HBM3"
"""
