"""The smallest case that is timed, and a row of results about it."""

from backprop_gpu.benchmark.speed import Network
from benchmarks.gpu.rows import Case, Row

TINY = Case(Network("tiny", (3, 4, 2), 5), "float32")
ROW = Row.of("one", TINY)
