"""What all tests share: a quiet TensorFlow, no windows, a cache of their own, the real data."""

import os
import tempfile
from pathlib import Path

# Set before anything reads them; processes that a test starts inherit them.
os.environ["MPLBACKEND"] = "agg"
_cache = tempfile.TemporaryDirectory(prefix="meta-learning-cache-")
os.environ.setdefault("META_LEARNING_CACHE", _cache.name)

import common  # noqa: E402, F401 - first of all: it readies TensorFlow and Keras

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def real_data():
    """Returns a function from a path in META_LEARNING_DATA to the file, or skips the test."""

    def find(path: str) -> Path:
        folder = os.environ.get("META_LEARNING_DATA")
        if not folder or not Path(folder, path).exists():
            pytest.skip(f"needs {path} in the folder that META_LEARNING_DATA names")
        return Path(folder, path)

    return find
