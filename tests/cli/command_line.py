"""The command line, as these tests call it."""

import re

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from click.testing import CliRunner

from backprop_gpu.cli.commands import commands

QUICK = ["--quiet", "--epochs", "2", "-o", "net.safetensors"]
SPECIES = ["setosa", "versicolor", "virginica"]


def run(*args, code=0):
    result = CliRunner().invoke(commands, list(map(str, args)), prog_name="backprop-gpu")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def fails(code, message, *args):
    """Assert that a command ends with an exit code and one or two lines that say why."""
    result = run(*args, code=code)
    assert result.stderr.startswith("Error: ")
    assert 1 <= len(result.stderr.splitlines()) <= 2
    assert re.search(message, result.stderr), result.stderr
    return result


def rows(text):
    """The lines of a table, by their first word."""
    return {line.split("  ")[0]: line for line in text.splitlines()}


def write_both(path, columns):
    table = pa.table(columns)
    pyarrow.csv.write_csv(table, path.with_suffix(".csv"))
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))
