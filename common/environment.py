"""What the code needs of its surroundings: versions, Keras on TensorFlow, and a quiet start.

`import common` calls `prepare()`. It has to come before TensorFlow and Keras are imported, because
they read their environment variables only then.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import tempfile
import warnings

OLDEST_PYTHON = (3, 11)
OLDEST = {"tensorflow": (2, 19), "keras": (3, 10)}
PACKAGES = {  # name to install -> name to import
    "tensorflow": "tensorflow",
    "keras": "keras",
    "tensorboard": "tensorboard",
    "numpy": "numpy",
    "matplotlib": "matplotlib",
    "librosa": "librosa",
    "opencv-python": "cv2",
    "scikit-learn": "sklearn",
    "tyro": "tyro",
}
INSTALL = "python -m pip install -r requirements.txt"
NVIDIA_DEVICE = "/dev/nvidiactl"

# C++ log lines, which TensorFlow writes while it is imported, before its log level acts.
_CHATTER = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] "
    r"|To enable the following instructions"
)


def prepare() -> None:
    """Makes this process fit for the code, or ends it with one line that says why it cannot be.

    A script prints the line to standard error and exits with status 2. In a notebook, an
    interactive session or a test the line is raised as an `ImportError`.
    `python -m common.check_environment` is let through: it reports every problem itself.
    """
    if "common.check_environment" in getattr(sys, "orig_argv", ()):
        return
    found = problems()
    if found and (hasattr(sys, "ps1") or {"IPython", "pytest"} & sys.modules.keys()):
        raise ImportError(found[0])
    if found:
        print("error:", found[0], file=sys.stderr)
        raise SystemExit(2)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # also where a keras.json prefers another
    _quieten()


def problems(python: tuple[int, ...] = sys.version_info[:3]) -> list[str]:
    """Everything that keeps the code from running here, without importing any of it.

    Args:
        python: Version of Python to judge.

    Returns:
        One line for each problem: what was expected, what was found, what to do.
    """
    if python < OLDEST_PYTHON:
        return [
            f"Expected Python {_dotted(OLDEST_PYTHON)} or newer, found {_dotted(python)}. "
            "Use a newer Python, for example through `make run PYTHON=/path/to/python`."
        ]
    missing = [
        name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None
    ]
    lines = []
    if missing:
        lines.append(
            f"Expected these packages, but they are missing: {', '.join(missing)}. "
            f"Install them: {INSTALL}"
        )
    lines += [_age(name, oldest) for name, oldest in OLDEST.items() if name not in missing]
    lines += [_legacy_keras(), _backend()]
    return [line for line in lines if line]


def _age(name: str, oldest: tuple[int, ...]) -> str:
    """The problem with an installed package's version, or nothing."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""  # built under another name, such as tensorflow-cpu
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= oldest:
        return ""
    return f"Expected {name} {_dotted(oldest)} or newer, found {version}. Upgrade: {INSTALL}"


def _legacy_keras() -> str:
    value = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if value not in ("1", "true", "True"):  # what TensorFlow takes for yes
        return ""
    return (
        f"Expected Keras 3, but TF_USE_LEGACY_KERAS={value} asks for Keras 2. "
        "Unset it: unset TF_USE_LEGACY_KERAS"
    )


def _backend() -> str:
    """The problem with Keras's backend, or nothing."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        backend = keras.config.backend()
        remedy = "Import common before keras, or set KERAS_BACKEND=tensorflow."
    else:
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
        remedy = "Unset KERAS_BACKEND, or set KERAS_BACKEND=tensorflow."
    if backend == "tensorflow":
        return ""
    return f"Expected Keras on the tensorflow backend, found {backend!r}. {remedy}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _quieten() -> None:
    """Silences TensorFlow's start-up chatter; TF_CPP_MIN_LOG_LEVEL=0 shows all of it again."""
    # Without an NVIDIA device even the errors are only complaints that there is none.
    level = "2" if os.path.exists(NVIDIA_DEVICE) else "3"
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level) != "0":
        sys.meta_path.insert(0, _QuietTensorFlow())
    # Keras 3.15 warns of its own default whenever `fit` is given a tf.data.Dataset.
    warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored")


class _QuietTensorFlow:
    """Finds TensorFlow as usual, and has its import run with the chatter filtered out."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _without_chatter()(spec.loader.exec_module)
        return spec


@contextlib.contextmanager
def _without_chatter():
    """Holds back what is written to standard error, and lets go of all but the chatter."""
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            standard_error = os.dup(2)
        except OSError:  # standard error is closed, or there is no room for a temporary file
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines(keepends=True):
                if not _CHATTER.match(line):
                    print(line, end="", file=sys.stderr)
