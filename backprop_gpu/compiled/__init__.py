"""What runs on the CPU in C++, compiled on first use.

For small networks Python's calls cost more than the arithmetic. Here a whole chunk of training is
one call, batches, passes, updates (`loop`); or all layers of a prediction (`forward`). For large
ones, whose products BLAS makes, all that is elementwise is one pass an operation (`fused`). The C++
is in kernels/*.cpp; an entry's expressions, those of the CUDA kernels, become its functions.
"""

from backprop_gpu.compiled.compiler import CompileError, or_numpy
from backprop_gpu.compiled.fused import FusedOperations
from backprop_gpu.compiled.loop import CompiledLoop, why_not, worth_it

__all__ = ["CompileError", "CompiledLoop", "FusedOperations", "or_numpy", "why_not", "worth_it"]
