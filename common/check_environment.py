"""Prints what the code finds on this machine, what is wrong, and how to mend it.

    python -m common.check_environment

The exit status is 0 when all is well and 2 when something is wrong. The packages are imported in
a process of their own, so that a broken one becomes a line of the report and not its end.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from common.environment import INSTALL, NVIDIA_DEVICE, PACKAGES, problems

ROOT = Path(__file__).resolve().parents[1]
ARCHIVES = {  # each a zip file or its unpacked folder
    "omniglot": ("images_background", "images_evaluation"),
    "faces": ("att_faces",),
    "audio": ("fsdd",),
}
PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(name, end=" ", flush=True)
    try:
        module = importlib.import_module(name)
        answer = {"version": module.__version__}
        if name == "tensorflow":
            answer["gpus"] = len(module.config.list_physical_devices("GPU"))
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer), flush=True)
"""


def main() -> int:
    """Prints the report and returns the exit status."""
    wrong = problems()
    rows = [("python", f"{platform.python_version()} at {sys.executable}")]
    for section in (packages, data, cache):
        more_rows, more_wrong = section()
        rows += more_rows
        wrong += more_wrong
    for heading, text in rows:
        print(f"{heading:<15} {text}")
    print("\nWhat is wrong:" if wrong else "\nAll is well.")
    for line in wrong:
        print(f"- {line}")
    return 2 if wrong else 0


def packages() -> tuple[list[tuple[str, str]], list[str]]:
    """Imports every package; returns its version, the devices, and what does not import."""
    rows, wrong = [], []
    answers = import_each(PACKAGES.values())
    for name, module in PACKAGES.items():
        answer = answers[module]
        rows.append((name, answer.get("version", "does not import")))
        if "error" in answer and importlib.util.find_spec(module):  # a missing one is told already
            remedy = f"Install it again: {INSTALL}"
            if module == "cv2":
                remedy = "Without a display, install opencv-python-headless in its place."
            wrong.append(f"{name} does not import ({answer['error']}). {remedy}")
    gpus = answers["tensorflow"].get("gpus", 0)
    devices = f"{os.cpu_count()} CPU cores, {gpus} GPUs"
    if not gpus and os.path.exists(NVIDIA_DEVICE):
        devices += "; to use the NVIDIA GPU: python -m pip install -r requirements-gpu.txt"
    rows.append(("devices", devices))
    if ROOT not in [Path(folder).resolve() for folder in sys.path[1:]]:  # [0] is where we stand
        wrong.append(
            "The repository itself is not installed, so its scripts do not find `common`. "
            "In its folder: python -m pip install -e ."
        )
    return rows, wrong


def import_each(modules: Iterable[str]) -> dict[str, dict]:
    """Imports modules in a new process.

    Args:
        modules: Their names.

    Returns:
        For each module `{"version": ...}`, for TensorFlow with the number of `"gpus"`, or
        `{"error": ...}`. The one that ends the process, and those after it, have an error too.
    """
    modules = list(modules)
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, *modules],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = probe.stderr.strip().splitlines()
    ended = f"the process ended with status {probe.returncode}: {said[-1] if said else ''}"
    answers = {module: {"error": ended} for module in modules}
    for line in probe.stdout.splitlines():
        module, _, answer = line.partition(" ")
        if module in answers and answer.startswith("{"):
            answers[module] = json.loads(answer)
    return answers


def data() -> tuple[list[tuple[str, str]], list[str]]:
    """Looks for the archives of the data sets; returns where each is, and what is wrong."""
    rows, wrong = [], []
    folders = data_folders()
    for name, archives in ARCHIVES.items():
        found = [path for archive in archives for path in _find(name, archive, folders)]
        wrong += [
            f"Expected a zip archive, found something else: {path}. Delete it and fetch it again."
            for path in found
            if path.is_file() and not zipfile.is_zipfile(path)
        ]
        rows.append((name, ", ".join(map(str, found)) or "not here; downloaded when first used"))
    rows.append(("looked in", ", ".join(map(str, folders))))
    chosen = os.environ.get("META_LEARNING_DATA")
    if chosen and not Path(chosen).expanduser().is_dir():
        wrong.append(
            f"META_LEARNING_DATA names no folder: {chosen}. Correct it, or unset META_LEARNING_DATA"
        )
    return rows, wrong


def data_folders() -> list[Path]:
    """Where the loaders look: META_LEARNING_DATA, then Keras's own folder for data sets."""
    chosen = os.environ.get("META_LEARNING_DATA")
    keras_home = os.environ.get("KERAS_HOME") or "~/.keras"
    folders = [chosen] if chosen else []
    return [Path(folder).expanduser().absolute() for folder in (*folders, f"{keras_home}/datasets")]


def cache() -> tuple[list[tuple[str, str]], list[str]]:
    """Returns where prepared data sets are kept, and whether that can be written."""
    try:
        from common.files import cache_directory
    except ImportError:  # it needs NumPy
        return [("cache", "told once the packages import")], []
    folder = cache_directory()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    wrong = []
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        wrong.append(
            f"The cache cannot be written: {folder}. Name another folder in META_LEARNING_CACHE."
        )
    return [("cache", str(folder))], wrong


def _find(name: str, archive: str, folders: list[Path]) -> list[Path]:
    """The place of an archive, in the order in which the loaders look; at most one."""
    places = [place for folder in folders for place in (folder / name, folder)]
    paths = [path for place in places for path in (place / f"{archive}.zip", place / archive)]
    return [path for path in paths if path.exists()][:1]


if __name__ == "__main__":
    sys.exit(main())
