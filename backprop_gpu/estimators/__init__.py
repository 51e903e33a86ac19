"""scikit-learn's `MLPRegressor` and `MLPClassifier`, computed by this library.

Importing this package imports scikit-learn.
"""

from backprop_gpu.errors import MissingExtraError

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("scikit-learn", "sklearn", "backprop_gpu.estimators") from error

from backprop_gpu.estimators.classifier import MLPClassifier
from backprop_gpu.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
