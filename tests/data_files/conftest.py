"""A file of any kind."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest


@pytest.fixture
def write(tmp_path):
    """Write a file of any kind; return its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, pa.Table) and name.endswith(".parquet"):
            pa.parquet.write_table(content, path)
        elif isinstance(content, pa.Table):
            pa.csv.write_csv(content, path)
        else:
            np.save(path, content)
        return path

    return write
