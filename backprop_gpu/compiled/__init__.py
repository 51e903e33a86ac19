"""What runs on the CPU in C++, compiled on first use.

For small networks Python's calls cost more than the arithmetic. Here a whole chunk of training is
one call, batches, passes, updates (`loop`); or all layers of a prediction (`forward`). Where BLAS
makes the products, all that is elementwise is one pass an operation (`fused`). The C++
is in kernels/*.cpp; an entry's expressions, those of the CUDA kernels, become its functions.
"""

from backprop_gpu.compiled.compiler import CompileError, or_numpy
from backprop_gpu.compiled.fused import FusedOperations
from backprop_gpu.compiled.loop import CompiledLoop, seconds_worth_compiling, why_not

__all__ = [
    "CompileError",
    "CompiledLoop",
    "FusedOperations",
    "or_numpy",
    "seconds_worth_compiling",
    "why_not",
]
