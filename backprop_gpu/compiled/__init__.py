"""Training and prediction of small networks on the CPU, compiled on first use.

For small networks Python's calls cost more than the arithmetic. Here a whole chunk of training is
one call, batches, passes, updates; or all layers of a prediction. The C++ is `kernels/train.cpp`
and `kernels/predict.cpp`; an entry's expressions, those of the CUDA kernels, become its functions.
"""

from backprop_gpu.compiled.compiler import CompileError
from backprop_gpu.compiled.loop import CompiledLoop, why_not, worth_it

__all__ = ["CompileError", "CompiledLoop", "why_not", "worth_it"]
