"""Kernels, and what launches them on the CPU."""

from host.launcher import HostLauncher

SEEDS = [None, 0, 1, 2]

ONE = (1, 1, 1)

ADD = """
typedef float real;
extern "C" __global__ void add(const real* __restrict__ x, const real* y, real* out, int n) {
    const int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) out[i] = x[i] + y[i];
}
"""


def run(source, name, args, *, grid=ONE, block=ONE, shared=0, seed=None):
    HostLauncher(seed).launch(source, name, grid, block, args, shared)


def one_kernel(parameters, body):
    return f'extern "C" __global__ void k({parameters}) {{\n{body}\n}}'
