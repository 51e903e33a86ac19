"""Imports point down, and importing the library brings in NumPy alone."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports from its own row and from those below it.
LAYERS = (
    {"__main__", "cli", "benchmark", "benchmark_table"},
    {"__init__"},
    {"estimators"},
    {"many"},
    {"together", "training", "resuming", "checkpoint", "textbook"},
    {"planning", "running", "history", "stopping"},
    {"chunk_steps", "compiled_steps", "one_launch", "one_launch_steps"}
    | {"feed", "step", "steps", "windows", "workspace"},
    {"onnx_export", "sklearn_import"},
    {"gradient_check", "per_sample", "explaining"},
    {"mlp", "predictor", "summary"},
    {"network"},
    {"batches", "compiled", "data"},
    {"backends"},
    {"expressions"},
    {"activations", "losses", "optimizers", "schedules", "initializers"},
    {"kernels"},
    {"arrays", "crossovers", "errors", "files", "shuffle", "special", "timing", "version"}
    | {"figures", "text_table"},
)
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}
OPTIONAL = {
    "click",
    "cupy",
    "matplotlib",
    "onnx",
    "pyarrow",
    "safetensors",
    "scipy",
    "sklearn",
    "tqdm",
}


def library():
    """Each module of the library: its dotted name, and its file."""
    for path in sorted((ROOT / "backprop_gpu").rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        yield f"backprop_gpu.kernels.{path.stem}", path


def place(name):
    """The entry of LAYERS that a dotted name belongs to: the package itself is its __init__."""
    part = name.split(".")[1:2]
    return part[0] if part and part[0] in ROW else "__init__"


def imports(node, package, called=False):
    """What a module imports, for annotations, too; and whether on a call."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                yield from ((alias.name, called) for alias in child.names)
            case ast.ImportFrom():
                base = resolve_name("." * child.level + (child.module or ""), package)
                yield from ((f"{base}.{alias.name}", called) for alias in child.names)
            case ast.Call(func, [ast.Constant(str(name)), *_]) if "import" in ast.unparse(func):
                yield name, called
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(child, package, called or inside)


def imported_by(name, path):
    return list(imports(ast.parse(path.read_text()), name.rpartition(".")[0]))


MODULES = dict(library())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    parts = name.split(".")
    assert parts[1] in ROW, f"{name} has no place in LAYERS"
    for target, _ in imported_by(name, MODULES[name]):
        if target.split(".")[0] == "backprop_gpu":
            assert ROW[place(target)] >= ROW[parts[1]], f"{name} imports {target}, above it"


def test_kernels_import_nothing_of_ours():
    for name in MODULES:
        if place(name) == "kernels":
            ours = [t for t, _ in imported_by(name, MODULES[name]) if t.startswith("backprop_gpu.")]
            assert all(place(target) == "kernels" for target in ours)


def test_cupy_is_imported_by_one_module_and_on_first_use():
    found = [
        (name, called)
        for name, path in MODULES.items()
        for target, called in imported_by(name, path)
        if target.split(".")[0] in ("cupy", "cupyx", "cupy_backends")
    ]
    assert len({name for name, _ in found}) == 1
    assert all(called for _, called in found)


def test_importing_the_library_imports_no_extra():
    script = "import sys, backprop_gpu; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert OPTIONAL.isdisjoint(loaded.stdout.split())
