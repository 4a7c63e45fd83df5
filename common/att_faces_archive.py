"""Where the AT&T (ORL) Database of Faces comes from: finding, downloading and decoding it."""

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.files import download
from common.images import decode_image
from common.omniglot_archives import find_archive, keras_data_sets

import numpy as np

SOURCE = "http://www.cl.cam.ac.uk/Research/DTG/attarchive/pub/data/att_faces.zip"
N_PEOPLE, N_PICTURES = 40, 10
PHOTOGRAPH = (112, 92)  # height, width
OTHERS = "take the data set faces, which needs no network, or olivetti, the same people"
_PICTURE = re.compile(r"(?:^|/)s(\d+)/(\d+)\.pgm$", re.IGNORECASE)


def find_or_download(data_dir: Path | None = None) -> Path:
    """Returns the zip file or the folder of the photographs, downloaded if need be.

    Raises:
        UserError: if they cannot be downloaded, or what came is something else.
    """
    for folder in (data_dir, data_dir / "faces") if data_dir else ():
        if (folder / "s1").is_dir():
            return folder
    path = find_archive("att_faces", data_dir, ("faces", "att_faces"))
    if path:
        return path
    path = download(
        SOURCE,
        keras_data_sets() / "faces" / "att_faces.zip",
        advice="The address may be gone. Get the AT&T (ORL) Database of Faces elsewhere, put "
        "att_faces.zip, or its folders s1 to s40 in a folder att_faces, into a folder that "
        f"--data-dir or META_LEARNING_DATA names, or {OTHERS}.",
    )
    try:  # no checksum is known, so the content is looked at
        read_archive(path)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    return path


def read_archive(path: Path) -> np.ndarray:
    """Decodes all photographs of a zip file or folder: uint8 `(40, 10, 112, 92)`.

    Raises:
        UserError: if it cannot be read, or a photograph is missing or damaged; it names it.
    """
    try:
        if path.is_dir():
            return _decode(path, {file.relative_to(path).as_posix(): file.read_bytes
                                  for file in path.rglob("*")})  # fmt: skip
        with zipfile.ZipFile(path) as opened:
            return _decode(
                path, {name: lambda name=name: opened.read(name) for name in opened.namelist()}
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise UserError(
            f"Expected the AT&T Database of Faces in {path}, but it cannot be read ({error}): put "
            f"a whole copy there, or {OTHERS}."
        ) from error


def _decode(source: Path, files: dict[str, Callable[[], bytes]]) -> np.ndarray:
    people: dict[int, dict[int, str]] = {}
    for name in sorted(files):
        found = _PICTURE.search(name)
        if found and not name.startswith("__MACOSX/"):
            people.setdefault(int(found[1]), {})[int(found[2])] = name
    for number in range(1, N_PEOPLE + 1):
        pictures = people.get(number, {})
        missing = [index for index in range(1, N_PICTURES + 1) if index not in pictures]
        if missing:
            raise UserError(
                f"Expected {N_PEOPLE} people with {N_PICTURES} pictures each in {source}, but "
                f"s{number}/{missing[0]}.pgm is missing: put a whole copy there, or {OTHERS}."
            )
    return np.array(
        [
            [
                _photograph(files[name := people[person][index]](), f"{source}/{name}")
                for index in range(1, N_PICTURES + 1)
            ]
            for person in range(1, N_PEOPLE + 1)
        ]
    )


def _photograph(content: bytes, name: str) -> np.ndarray:
    image = decode_image(content, name, size=None)[..., 0]
    if image.shape != PHOTOGRAPH or len(content) < image.size:
        height, width = PHOTOGRAPH
        raise UserError(
            f"Expected a whole picture of {width} x {height} in {name}, found "
            f"{image.shape[1]} x {image.shape[0]} in {len(content):,} bytes: replace it."
        )
    return image
