"""The archives that Omniglot comes in: finding, downloading and decoding them."""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.files import download
from common.images import decode_image

import numpy as np

SOURCE = "https://github.com/brendenlake/omniglot/raw/master/python"
N_DRAWINGS = 20  # of each character


class Archive(NamedTuple):
    """An official archive: what it is called and what it must hold."""

    name: str
    md5: str
    n_characters: int


def find_archive(
    name: str, data_dir: Path | None = None, folders: tuple[str, ...] = ("omniglot",)
) -> Path | None:
    """Returns the zip file or the unpacked folder of an archive, or None if it is nowhere."""
    places = [data_dir, os.environ.get("META_LEARNING_DATA"), keras_data_sets()]
    for place in (Path(place).expanduser() for place in places if place):
        for folder in (*(place / folder for folder in folders), place):
            for path in (folder / f"{name}.zip", folder / name):
                if path.exists():
                    return path
    return None


def find_or_download(archive: Archive, data_dir: Path | None = None) -> Path:
    """Returns the zip file or the unpacked folder of an archive, downloaded if need be."""
    path = find_archive(archive.name, data_dir)
    if path:
        return path
    return download(
        f"{SOURCE}/{archive.name}.zip",
        keras_data_sets() / "omniglot" / f"{archive.name}.zip",
        md5=archive.md5,
        advice=f"Put {archive.name}.zip into a folder that --data-dir or META_LEARNING_DATA names, "
        "or take the data set glyphs, which needs no network.",
    )


def fingerprint(path: Path, pattern: str = "*.png") -> str:
    """Returns a digest of a file's content, or of the names, sizes and times in a folder."""
    if path.is_file():
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"Could not read {path} ({error.strerror}): make it readable."
            ) from error
    digest = hashlib.sha256()
    for file in sorted(path.rglob(pattern)):
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_archive(archive: Archive, path: Path) -> dict[str, list[np.ndarray]]:
    """Decodes all drawings of an archive or of its unpacked folder.

    Args:
        archive: What must be in it.
        path: A zip file or folder with `.../<alphabet>/<character>/<drawing>.png`.

    Returns:
        The drawings, uint8 `(28, 28)`, of each character, by its name "Greek/character01".

    Raises:
        UserError: if it is no zip file, or it or a drawing in it is damaged or missing; it names
            the file and the drawing or character.
    """
    characters = _read(path)
    for name, drawings in characters.items():
        if len(drawings) != N_DRAWINGS:
            raise UserError(
                f"Expected {N_DRAWINGS} drawings of {name} in {path}, found {len(drawings)}: put a "
                "whole copy there."
            )
    if len(characters) != archive.n_characters:
        raise UserError(
            f"Expected {archive.n_characters} characters in {path}, found {len(characters)}: put a "
            "whole copy there."
        )
    return characters


def _read(path: Path) -> dict[str, list[np.ndarray]]:
    try:
        if path.is_dir():
            found = path.rglob("*.png")
            return _decode_all(
                path, {f"{file.relative_to(path)}": file.read_bytes for file in found}
            )
        with zipfile.ZipFile(path) as opened:
            files = {name: partial(opened.read, name) for name in opened.namelist()}
            return _decode_all(path, files)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UserError(
            f"Expected an archive of Omniglot in {path}, but it cannot be read ({error}): delete "
            "it, and it is downloaded again, or put a whole copy there."
        ) from error


def _decode_all(source: Path, files: dict[str, Callable[[], bytes]]) -> dict[str, list[np.ndarray]]:
    """Decodes files in threads, which OpenCV and zlib allow to run at the same time."""
    drawings: dict[str, list[str]] = {}
    for name in sorted(files):
        character = re.search(r"([^/]+/character\d+)/[^/.][^/]*\.png$", name)
        if character and not name.startswith("__MACOSX/"):
            drawings.setdefault(character[1], []).append(name)

    def decode(names: list[str]) -> list[np.ndarray]:
        return [255 - decode_image(files[name](), f"{source}/{name}")[..., 0] for name in names]

    with ThreadPoolExecutor() as pool:
        return dict(zip(drawings, pool.map(decode, drawings.values()), strict=True))


def keras_data_sets() -> Path:
    """Returns the folder that Keras downloads data sets to."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"
