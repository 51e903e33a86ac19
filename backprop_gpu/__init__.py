"""Multilayer perceptrons by explicit, textbook backpropagation, at hardware speed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from backprop_gpu.activations import Activation, LeakyReLU, register_activation
from backprop_gpu.arrays import one_hot
from backprop_gpu.data import ParquetColumns
from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    FileFormatError,
    GradientError,
    MissingExtraError,
    NonFiniteError,
    OutOfMemoryError,
    ShapeError,
    UnknownNameError,
)
from backprop_gpu.explaining.draw import draw
from backprop_gpu.explaining.explain import (
    Explanation,
    explain,
    explain_activation,
    explain_bias,
)
from backprop_gpu.explaining.jump_back import Jump, jump_back
from backprop_gpu.explaining.page.write import write_page
from backprop_gpu.explaining.terms import Term
from backprop_gpu.gradient_check import CheckedTerm, GradientReport, check_gradients
from backprop_gpu.losses import Loss, register_loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import Gradients, Layer, Trace
from backprop_gpu.onnx_export import export_onnx
from backprop_gpu.optimizers import SGD, Adam, AdamW, Optimizer
from backprop_gpu.per_sample import Outliers, outliers, per_sample_gradient_norms, saliency
from backprop_gpu.predictor import Predictor
from backprop_gpu.saving import load, save
from backprop_gpu.schedules import (
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    StepDecay,
    WarmUp,
)
from backprop_gpu.sklearn_import import from_sklearn
from backprop_gpu.textbook import textbook
from backprop_gpu.training.history import Epoch, History, TrainingDiverged
from backprop_gpu.training.many import train_many
from backprop_gpu.training.planning import Plan, plan
from backprop_gpu.training.stopping import EarlyStopping
from backprop_gpu.training.train import train
from backprop_gpu.version import __version__ as __version__

if TYPE_CHECKING:
    from backprop_gpu.estimators import MLPClassifier as MLPClassifier
    from backprop_gpu.estimators import MLPRegressor as MLPRegressor

__all__ = [
    "MLP",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "CheckedTerm",
    "CosineDecay",
    "DeviceError",
    "DomainError",
    "DtypeError",
    "EarlyStopping",
    "Epoch",
    "Explanation",
    "ExponentialDecay",
    "FileFormatError",
    "GradientError",
    "GradientReport",
    "Gradients",
    "History",
    "InverseTimeDecay",
    "Jump",
    "Layer",
    "LeakyReLU",
    "Loss",
    "MissingExtraError",
    "NonFiniteError",
    "Optimizer",
    "OutOfMemoryError",
    "Outliers",
    "ParquetColumns",
    "Plan",
    "Predictor",
    "ShapeError",
    "StepDecay",
    "Term",
    "Trace",
    "TrainingDiverged",
    "UnknownNameError",
    "WarmUp",
    "check_gradients",
    "draw",
    "explain",
    "explain_activation",
    "explain_bias",
    "export_onnx",
    "from_sklearn",
    "jump_back",
    "load",
    "one_hot",
    "outliers",
    "per_sample_gradient_norms",
    "plan",
    "register_activation",
    "register_loss",
    "saliency",
    "save",
    "textbook",
    "train",
    "train_many",
    "write_page",
]


OF_SKLEARN = ["MLPClassifier", "MLPRegressor"]  # which is imported on first use

if not TYPE_CHECKING:  # else checkers would take any name

    def __getattr__(name: str) -> object:
        if name in OF_SKLEARN:
            from backprop_gpu import estimators

            return getattr(estimators, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Whoever lists names gets the objects next, as help() does.
    return [*__all__, "__version__", *(OF_SKLEARN if find_spec("sklearn") else [])]
