"""scikit-learn's own tests of its networks, run on ours.

They are read from the installed scikit-learn, of which two names are replaced.
"""

from pathlib import Path

import pytest
import sklearn.neural_network

pytestmark = pytest.mark.filterwarnings("ignore")

SOURCE = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
THEIRS = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
OURS = "from backprop_gpu.estimators import MLPClassifier, MLPRegressor"
# Calls scikit-learn's private function of L-BFGS with buffers of its own.
LEFT_OUT = {"test_gradient"}


@pytest.fixture
def global_random_seed():
    return 42


if SOURCE.exists():
    assert THEIRS in SOURCE.read_text()
    exec(compile(SOURCE.read_text().replace(THEIRS, OURS), str(SOURCE), "exec"), globals())
    for _name in LEFT_OUT:
        del globals()[_name]
else:

    def test_mlp():
        pytest.skip("scikit-learn was installed without its tests")
