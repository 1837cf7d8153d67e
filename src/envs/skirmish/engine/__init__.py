"""The rules of a battle as Warp functions and kernels: one thread plays one battle, from one source on CPU and CUDA."""
