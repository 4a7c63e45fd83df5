import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from common import command
from common.errors import UserError
from common.run_directory import RunDirectory

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = '''"""Averages random numbers.

More about it.
"""

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import command
from common.errors import UserError
from common.results import Estimate, Result
from common.settings import RunSettings, positive


@dataclass(frozen=True)
class Config:
    n_way: int = 5
    """Classes of a task."""

    inner_lr: float = 0.1
    """Step size alpha."""

    run: RunSettings = RunSettings(steps=50)

    def __post_init__(self):
        positive(self, "n_way", "inner_lr")

    @classmethod
    def smoke(cls):
        return cls(n_way=2, run=RunSettings(steps=3, smoke=True))


def run(config, directory=None, progress=False):
    dataset = config.run.dataset
    if dataset == "unknown":
        raise UserError("expected a data set,\\ngot 'unknown'")
    if dataset == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "weights.h5")
    if dataset == "bug":
        raise KeyError("a bug")
    if dataset == "stopped-once" and not (directory / "weights").exists():
        (directory / "weights").write_text("")
        raise KeyboardInterrupt
    values = np.random.default_rng(config.run.seed).normal(size=config.run.steps)
    return Result({"mean_value": Estimate.from_values(values)}, history={"values": values})


def draw(result, config, directory):
    (directory / "figure.png").write_text("")


if __name__ == "__main__":
    command.main(Config, run, draw)
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def tiny(script):
    """The script as an imported module."""
    spec = importlib.util.spec_from_file_location("chapter99_test.tiny", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def start(script):
    """Runs the script in a process of its own, in its folder."""

    def start(*flags):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, script.name, *flags],
            cwd=script.parent,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=100,
        )

    return start


def runs(folder):
    return sorted((folder / "outputs" / "tiny").glob("*/"))


def test_all_flags_are_flat(tiny):
    config = command.parse(
        tiny.Config,
        ["--n-way", "20", "--inner-lr", "0.5", "--steps=7", "--jit", "--data-dir", "d"],
    )
    assert (config.n_way, config.inner_lr, config.run.steps) == (20, 0.5, 7)
    assert config.run.jit
    assert config.run.data_dir == Path("d")
    assert config.run.output_dir == Path("outputs")
    assert config.run.resume is None


def test_defaults_are_those_of_the_script(tiny):
    assert command.parse(tiny.Config, []) == tiny.Config()


def test_values_with_colon_and_slash(tiny):
    config = command.parse(tiny.Config, ["--dataset", "folder:/my/images"])
    assert config.run.dataset == "folder:/my/images"


def test_smoke_gives_defaults_and_explicit_flags_win(tiny):
    assert command.parse(tiny.Config, ["--smoke"]) == tiny.Config.smoke()
    config = command.parse(tiny.Config, ["--steps", "9", "--smoke"])
    assert (config.n_way, config.run.steps, config.run.smoke) == (2, 9, True)


def test_values_out_of_range_raise_user_errors(tiny, capsys):
    with pytest.raises(UserError) as caught:
        command.parse(tiny.Config, ["--inner-lr", "-0.1"])
    assert str(caught.value) == "--inner-lr must be greater than 0, got -0.1"
    with pytest.raises(UserError, match="--steps must be at least 1, got 0"):
        command.parse(tiny.Config, ["--steps", "0"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stesp", "3"], ["--stesp", "--steps"]),
        (["--seed", "x"], ["--seed", "'x'"]),
        (["--resume", "a", "b"], ["--resume", "at most one"]),
        (["stray"], ["stray"]),
    ],
)
def test_unreadable_flags_are_named_in_one_line(tiny, capsys, flags, words):
    with pytest.raises(UserError) as caught:
        command.parse(tiny.Config, flags)
    error = str(caught.value)
    assert error.endswith("; see --help")
    assert all(word in error for word in words)
    assert not set("\n│─") & set(error)
    assert capsys.readouterr().err == ""


def test_help_documents_every_flag(tiny, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse(tiny.Config, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "Averages random numbers." in text
    assert "More about it." not in text
    flags = """--n-way --inner-lr --seed --steps --dataset --data-dir --output-dir --resume --smoke
    --jit --mixed-precision"""
    assert all(flag in text for flag in flags.split())
    assert "Classes of a task." in text
    assert "Seed of the weights" in text


def test_help_of_smoke_shows_the_smoke_defaults(tiny, capsys):
    with pytest.raises(SystemExit):
        command.parse(tiny.Config, ["--smoke", "--help"])
    assert "(default: 3)" in " ".join(capsys.readouterr().out.split())


def test_command_line_repeats_the_run_without_its_places(tiny):
    flags = ["--seed", "3", "--output-dir", "/somewhere", "--dataset", "folder:my images"]
    line = command.command_line(command.parse(tiny.Config, flags))
    assert line == "python tiny.py --seed 3 --dataset 'folder:my images'"
    line = command.command_line(command.parse(tiny.Config, ["--smoke", "--steps", "9"]))
    assert line == "python tiny.py --smoke --steps 9"


def test_script_name_is_the_stem_of_the_file(tiny):
    assert command.script_name(tiny.Config) == "tiny"


def test_versions():
    versions = command.versions()
    assert list(versions) == ["python", "tensorflow", "keras", "numpy"]
    assert all(version[0].isdigit() for version in versions.values())


def test_device_is_the_gpu_that_tensorflow_uses_or_the_cpu(monkeypatch):
    gpus = []
    details = SimpleNamespace(get_device_details=lambda gpu: {"device_name": gpu})
    config = SimpleNamespace(list_physical_devices=lambda kind: gpus, experimental=details)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
    assert re.fullmatch(r"CPU, (1 core|\d+ cores)", command.device())
    gpus.append("NVIDIA A")
    assert command.device() == "NVIDIA A"
    gpus.append("NVIDIA A")
    assert command.device() == "2 x NVIDIA A"


def test_a_run_from_start_to_end(script, start):
    done = start("--seed", "3", "--steps", "20")
    assert done.returncode == 0, done.stderr
    (folder,) = runs(script.parent)
    content = json.loads((folder / "result.json").read_text())
    assert content["metrics"]["mean_value"]["n"] == 20
    assert content["seed"] == 3
    assert content["command"] == "python tiny.py --seed 3 --steps 20"
    assert content["versions"]["python"]
    assert content["device"].startswith("CPU")
    assert content["seconds"] > 0
    assert content["config"]["steps"] == 20
    assert str(script.parent) not in json.dumps(content)
    assert "mean_value" in done.stdout
    assert "n = 20" in done.stdout
    assert str(folder.relative_to(script.parent) / "figure.png") in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "error: --steps must be at least 1, got 0\n"),
        (["--dataset", "unknown"], "error: expected a data set, got 'unknown'\n"),
        (["--dataset", "full"], "error: [Errno 28] No space left on device: 'weights.h5'\n"),
        (["--resume"], "error: found no unfinished run in outputs/tiny: nothing to resume; "),
        (["--output-dir", "tiny.py"], "error: cannot make a folder in tiny.py/tiny "),
    ],
)
def test_mistakes_end_in_one_line_and_status_2_and_leave_nothing(script, start, flags, message):
    done = start(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert runs(script.parent) == []


def test_a_bug_keeps_its_traceback(script, start):
    done = start("--dataset", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'a bug'" in done.stderr


def test_a_stopped_run_is_continued_with_its_own_settings(script, start):
    flags = ["--dataset", "stopped-once", "--seed", "5"]
    stopped = start(*flags)
    assert stopped.returncode == 130
    (folder,) = runs(script.parent)
    relative = folder.relative_to(script.parent)
    assert stopped.stderr.strip() == f"stopped; continue with --resume {relative}"

    other = start("--resume", "--seed", "6")
    assert other.returncode == 2
    assert "--seed 5 (now 6)" in other.stderr

    resumed = start("--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert runs(script.parent) == [folder]
    content = json.loads((folder / "result.json").read_text())
    assert content["seed"] == 5
    assert content["command"] == "python tiny.py --seed 5 --dataset stopped-once"

    again = start("--resume", str(relative))
    assert again.returncode == 2
    assert "is finished" in again.stderr


def test_resume_finds_the_run_under_output_dir_and_by_path(tiny, tmp_path):
    config = command.parse(tiny.Config, ["--output-dir", str(tmp_path / "o"), "--n-way", "7"])
    path = RunDirectory.create(config, "tiny").path
    for flags in (["--output-dir", str(tmp_path / "o"), "--resume"], ["--resume", str(path)]):
        resumed = command.parse(tiny.Config, flags)
        assert resumed.run.resume == path
        assert resumed.n_way == 7


def test_errors_of_a_full_disk_in_other_classes_are_one_line(capsys):
    with pytest.raises(SystemExit) as stop, command.readable_errors():
        raise RuntimeError("while writing;\nNo space left on device [Op:SaveV2]")
    assert stop.value.code == 2
    expected = "error: while writing; No space left on device [Op:SaveV2]\n"
    assert capsys.readouterr().err == expected


def test_a_file_that_is_missing_by_our_own_fault_is_a_bug():
    with pytest.raises(FileNotFoundError), command.readable_errors():
        Path("no such file").read_text()


def test_importing_does_not_load_tensorflow_or_pyplot():
    code = (
        "import sys, common.command, common.plots, common.notebooks, common.results_table;"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "[]", done.stderr
