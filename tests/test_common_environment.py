"""The guard that `import common` is, the report of the environment, and the files around it."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from common import check_environment, environment

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(*arguments, flags=(), **variables):
    """Runs Python in the repository's root with some environment variables set."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS")
    }
    return subprocess.run(
        [sys.executable, *flags, *arguments],
        cwd=ROOT,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(finished, *words):
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert len(finished.stderr.splitlines()) == 1, finished.stderr
    for word in words:
        assert word in finished.stderr


def test_import_is_silent_and_light():
    finished = python(
        "-c", "import common, sys; print({'tensorflow', 'keras', 'numpy'} & sys.modules.keys())"
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "set()\n", "")


def test_tensorflow_starts_and_fits_without_a_word():
    program = """
import common
import keras, numpy, tensorflow
model = keras.Sequential([keras.layers.Dense(1)])
model.compile(loss="mse")
data = tensorflow.data.Dataset.from_tensor_slices((numpy.ones((5, 2)), numpy.ones((5, 1))))
model.fit(data.batch(2), verbose=0)
"""
    finished = python("-c", program)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_other_lines_of_the_import_are_kept(capfd):
    with environment._without_chatter():
        os.write(2, b"I0000 00:00:17.8 1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"2026-01-02 03:04:05.6: E external/xla/cuda_fft.cc:467] Unable to register\n")
        os.write(2, b"something went wrong\n")
    assert capfd.readouterr().err == "something went wrong\n"


def test_chatter_can_be_asked_for():
    finished = python(
        "-c",
        "import common, sys; print([type(finder).__name__ for finder in sys.meta_path])",
        TF_CPP_MIN_LOG_LEVEL="0",
    )
    assert "_QuietTensorFlow" not in finished.stdout


@pytest.mark.parametrize("value", ["1", "True", "true"])
def test_legacy_keras_is_refused(value):
    assert_refused(python("-c", "import common", TF_USE_LEGACY_KERAS=value), "TF_USE_LEGACY_KERAS")


def test_legacy_keras_turned_off_is_accepted():
    assert python("-c", "import common", TF_USE_LEGACY_KERAS="0").returncode == 0


def test_other_backend_is_refused():
    assert_refused(
        python("-c", "import common", KERAS_BACKEND="jax"), "'jax'", "KERAS_BACKEND=tensorflow"
    )


def test_preference_for_another_backend_gives_way(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    finished = python(
        "-c", "import common, keras; print(keras.backend.backend())", KERAS_HOME=str(tmp_path)
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "tensorflow\n", "")


def test_keras_already_on_another_backend_is_refused():
    program = """
import sys, types
sys.modules["keras"] = types.ModuleType("keras")  # as if imported, on another backend
sys.modules["keras"].__spec__ = types.SimpleNamespace()
sys.modules["keras"].config = types.SimpleNamespace(backend=lambda: "torch")
import common
"""
    assert_refused(python("-c", program), "'torch'", "Import common before keras")


def test_missing_packages_are_named():
    finished = python("-c", "import common", flags=["-S"], PYTHONPATH="")
    assert_refused(finished, "missing", "tensorflow", "opencv-python", environment.INSTALL)


@pytest.mark.parametrize(
    ("name", "version"), [("tensorflow", "2.18.1"), ("keras", "3.9.2"), ("keras", "2.15.0")]
)
def test_old_version_is_refused(tmp_path, name, version):
    metadata = tmp_path / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    finished = python("-c", "import common", PYTHONPATH=str(tmp_path))
    assert_refused(finished, name, version, environment.INSTALL)


def test_old_python_is_refused_and_reads_the_guard():
    (line,) = environment.problems(python=(3, 10, 13))
    assert "3.11" in line
    assert "3.10.13" in line
    for name in ("__init__.py", "environment.py"):
        ast.parse((ROOT / "common" / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_sessions_get_an_import_error(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(ImportError, match="TF_USE_LEGACY_KERAS"):
        environment.prepare()


def test_report_of_a_good_environment(tmp_path):
    finished = python(
        "-m",
        "common.check_environment",
        META_LEARNING_DATA=str(tmp_path),
        META_LEARNING_CACHE=str(tmp_path / "cache"),
    )
    assert finished.returncode == 0, finished.stdout
    assert finished.stderr == ""
    for word in (*environment.PACKAGES, "CPU cores", "omniglot", "faces", "audio", str(tmp_path)):
        assert word in finished.stdout
    assert "All is well." in finished.stdout


def test_report_of_a_bad_environment(tmp_path):
    finished = python(
        "-m",
        "common.check_environment",
        flags=["-S"],
        TF_USE_LEGACY_KERAS="1",
        META_LEARNING_DATA=str(tmp_path / "absent"),
    )
    assert finished.returncode == 2
    assert finished.stderr == ""
    for words in ("are missing", "unset TF_USE_LEGACY_KERAS", "names no folder"):
        assert words in finished.stdout


def test_report_survives_a_package_that_kills_its_process(tmp_path, monkeypatch):
    (tmp_path / "healthy.py").write_text("__version__ = '1.2'")
    (tmp_path / "failing.py").write_text("raise OSError('libGL.so.1: cannot open')")
    (tmp_path / "deadly.py").write_text("import os; os.write(2, b'AVX2 needed\\n'); os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = check_environment.import_each(["healthy", "failing", "deadly", "healthy_not_reached"])
    assert answers["healthy"] == {"version": "1.2"}
    assert answers["failing"] == {"error": "OSError: libGL.so.1: cannot open"}
    assert "AVX2 needed" in answers["deadly"]["error"]
    assert "error" in answers["healthy_not_reached"]


def test_report_finds_data_and_doubts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("META_LEARNING_DATA", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "att_faces.zip").write_text("no archive")
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    zipfile.ZipFile(tmp_path / "keras" / "datasets" / "fsdd.zip", "w").close()
    rows, wrong = check_environment.data()
    assert dict(rows)["faces"].endswith("att_faces.zip")
    assert dict(rows)["audio"].endswith("fsdd.zip")
    assert "downloaded" in dict(rows)["omniglot"]
    assert len(wrong) == 1
    assert "att_faces.zip" in wrong[0]


def requirements(name):
    """The requirements that a file lists itself: no comments, no other files, no options."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    bare = [line.split("#")[0].strip() for line in lines]
    return [line for line in bare if line and not line.startswith("-")]


def test_requirements_agree_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = requirements("requirements.txt")
    assert listed == project["dependencies"]
    for name, oldest in environment.OLDEST.items():
        assert any(
            line.startswith(f"{name}>={environment._dotted(oldest)},<") for line in listed
        ), f"{name}'s oldest version differs between requirements.txt and common.environment"
    assert project["requires-python"].startswith(
        f">={environment._dotted(environment.OLDEST_PYTHON)},"
    )
    assert environment.PACKAGES.keys() == {re.split("[<>=]", line)[0] for line in listed} - {
        "jupyter"
    }
    (gpu,) = requirements("requirements-gpu.txt")
    assert gpu.replace("[and-cuda]", "") in listed


def test_oldest_environment_pins_the_oldest_versions():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, oldest in environment.OLDEST.items():
        assert f'"{name}=={environment._dotted(oldest)}.*"' in makefile


@pytest.mark.parametrize(
    "target",
    ["help", "run", "test", "test-oldest", "lint", "notebooks", "results", "bench", "clean"],
)
def test_make_knows_its_targets(target):
    finished = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_make_names_a_python_that_is_too_old(tmp_path):
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    finished = subprocess.run(
        ["make", "test", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert "Python 3.11 to 3.13" in finished.stderr
    assert "found Python 3.9.1" in finished.stderr
