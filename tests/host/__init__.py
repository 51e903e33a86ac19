"""CUDA without a GPU: `launcher` runs sources, `nvrtc` compiles them, `simulated_gpu` runs CuPy."""
