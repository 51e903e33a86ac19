"""What a test may need of the machine: without it, it is skipped, and the reason is shown."""

import pytest

from backprop_gpu.compiled.compiler import compiler

from .launcher import unavailable_reason
from .nvrtc import nvrtc_unavailable_reason


def _needs(missing: str | None) -> pytest.MarkDecorator:
    return pytest.mark.skipif(missing is not None, reason=str(missing))


needs_gpp = _needs(unavailable_reason())
needs_nvrtc = _needs(nvrtc_unavailable_reason())
needs_compiler = _needs(None if compiler() else "no C++ compiler")
