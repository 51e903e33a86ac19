"""CUDA where there is no GPU: `launcher` runs sources on the CPU, `nvrtc` compiles them."""
