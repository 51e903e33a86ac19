"""The network that is timed, in PyTorch."""

from __future__ import annotations

from typing import Any

import backprop_gpu as bp


def sequential(net: bp.MLP) -> Any:
    """Return a torch.nn.Sequential with the same layers, and parameters of its own."""
    import torch

    modules: list[Any] = []
    for l, (W, b, _) in enumerate(net.layers):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=getattr(torch, net.dtype.name))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W))
            linear.bias.copy_(torch.from_numpy(b))
        modules += [linear, torch.nn.LeakyReLU(0.1) if l == 0 else torch.nn.Sigmoid()]
    return torch.nn.Sequential(*modules)
