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
    {"__main__", "cli"},
    {"benchmark.speed"},
    {"__init__"},
    {"estimators"},
    {"training.many"},
    {"training.train", "training.shared_launch"},
    {"training.checkpoints", "textbook"},
    {"training.planned"},
    {"training.planning", "training.run"},
    {"training.paths.compiled_steps", "training.paths.one_launch_steps"},
    {"training.paths.chunk_steps"},
    {"training.paths.one_launch", "training.paths.single_steps"},
    {"training.paths.graphs"},
    {"training.paths.step", "training.stopping", "training.streams"},
    {"training.history", "training.paths.runner", "training.paths.workspace", "training.weighting"},
    {"training.batches", "training.crossovers"},
    {"onnx_export", "saving", "sklearn_import"},
    {"gradient_check", "per_sample", "explaining"},
    {"mlp", "checks", "passes", "predictor", "summary"},
    {"network", "parameters"},
    {"benchmark"},
    {"compiled", "data"},
    {"backends"},
    {"expressions"},
    {"activations", "losses", "optimizers", "schedules", "initializers"},
    {"kernels"},
    {"arrays", "errors", "figures", "files", "shuffle", "special", "text_table", "version"}
    | {"training"},
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
    parts = name.split(".")[1:]
    longer = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((entry for entry in longer if entry in ROW), "__init__")


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
    own = place(name)
    assert own != "__init__" or name.count(".") == 1, f"{name} has no place in LAYERS"
    for target, _ in imported_by(name, MODULES[name]):
        if target.split(".")[0] == "backprop_gpu":
            assert ROW[place(target)] >= ROW[own], f"{name} imports {target}, above it"


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
