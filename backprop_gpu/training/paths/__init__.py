"""The ways to run training steps, from which nothing can be told but the time they take.

`step` is one step, and `single_steps` runs one after the other: the reference. On a GPU, `graphs`
records many as one, and `one_launch` has kernels that train a small network by themselves. On a
CPU, `compiled_steps` runs a loop in C++. `runner` says what they are asked, and what all have.
"""
