"""Files that are whole or absent: atomic writing, cached arrays, downloads."""

import hashlib
import os
import secrets
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError

import numpy as np

RETRY_PAUSES = (1.0, 4.0)  # seconds between the attempts of a download
STALLED_AFTER = 30.0  # seconds without a byte


def cache_directory() -> Path:
    """Returns where prepared data sets are kept; the folder need not exist yet.

    The environment variable `META_LEARNING_CACHE` names it; without it, it is
    `meta-learning` in `XDG_CACHE_HOME`, which is `~/.cache` unless set.
    """
    chosen = os.environ.get("META_LEARNING_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "meta-learning"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path that becomes `path` if the block succeeds.

    The temporary file lies in the same folder (made if needed) and ends in the same name, so
    that writers which look at the suffix work. A reader sees the old file or the new one, never
    a part, also when the process is killed or two processes write at once.

    Args:
        path: The file to write.

    Yields:
        The path to write to.

    Raises:
        UserError: if the file cannot be written: full disk, no permission, ...
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"Could not write {path} ({error.strerror or error}): free some space or choose a "
            "folder that you may write to."
        ) from error
    finally:
        _remove(temporary)


def cached_arrays(
    name: str, key: object, build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns the arrays that `build` makes, from the cache if they are there.

    A damaged cache is built again. If the cache cannot be written, a warning says so and the
    arrays are returned all the same.

    Args:
        name: Start of the cache file's name.
        key: All that the arrays depend on; its `repr` chooses the file.
        build: Makes the arrays; called only if the cache has no whole copy.

    Returns:
        The arrays by name.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    path = cache_directory() / f"{name}-{digest}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)  # reading an array to its end verifies its checksum
    except Exception:  # absent, or damaged in any of the ways that a zip archive can be
        arrays = build()
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)
    except UserError as error:
        warnings.warn(f"The data set {name} is not cached. {error}", stacklevel=2)
    return arrays


def download(url: str, path: Path | str, md5: str | None = None, advice: str = "") -> Path:
    """Downloads a file with a progress bar, verifies it, and only then gives it its name.

    Args:
        url: Where the file is.
        path: Where it is to be.
        md5: The file's MD5 checksum in hexadecimal; None if it is not known.
        advice: What else can be done, to end the message of a failure.

    Returns:
        `path`.

    Raises:
        UserError: if all attempts failed.
    """
    from keras.utils import get_file  # takes seconds to import, and is seldom needed

    path = Path(path)
    with _socket_timeout(STALLED_AFTER):
        for pause in (*RETRY_PAUSES, None):
            try:
                # `get_file` looks at length and checksum, but leaves a part behind if killed.
                with atomic_path(path) as part:
                    get_file(part.name, url, file_hash=md5, cache_subdir=str(part.parent))
                return path
            except Exception as error:  # what `get_file` raises for any failure
                failure = error.__cause__ or error
            if pause is not None:
                time.sleep(pause)
    raise UserError(
        f"Could not download {url} to {path} in {len(RETRY_PAUSES) + 1} attempts "
        f"({str(failure).rstrip('.')}). {advice}".rstrip()
    ) from failure


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Lets new connections give up on a silent server, which `get_file` cannot be told."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
