"""README.md is kept true: its commands parse, its links lead somewhere, its snippets run."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

from chapter05_maml_adml import maml
from common import command, datasets, results_table
from common.settings import flag, flat

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
CODE = SHELL + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", TEXT))  # blocks and words in the text
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SCRIPTS = sorted(set(re.findall(r"python (chapter\w+/\w+\.py)(.*)", CODE)))
SMALL = {"epochs": 1, "steps_per_epoch": 2, "fixed(": 4, "meta_batch_size": 2}
FEW_STEPS = "--steps 2 --meta-batch-size 2 --eval-episodes 4 --baseline-steps 0"


def words_of(line):
    return shlex.split(line, comments=True)


def module_of(script):
    return script.removesuffix(".py").replace("/", ".")


def write_images(folder, n_images):
    """Images of noise: `folder/0.jpg`, `folder/1.jpg`, ..."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (n_images, 40, 30, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        cv2.imwrite(str(folder / f"{index}.jpg"), image)


@pytest.mark.parametrize(("script", "flags"), SCRIPTS, ids=lambda text: text.strip() or "plain")
def test_script_takes_its_flags(script, flags):
    module = importlib.import_module(module_of(script))
    # --help ends the process, and --resume asks for a run that was stopped.
    words = [word for word in words_of(flags) if word not in ("--help", "--resume")]
    assert isinstance(command.parse(module.Config, words), module.Config)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([\w-]+)", CODE, re.MULTILINE))
    assert {"run", "test"} <= named <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_arguments_given_through_make_are_flags():
    (arguments,) = re.findall(r'^make run ARGS="(.*)"', CODE, re.MULTILINE)
    command.parse(maml.Config, words_of(arguments))


def test_every_flag_in_the_text_is_one():
    known = {"--help", "--add", "--logdir"}
    for script in {script for script, _ in SCRIPTS}:
        settings = flat(importlib.import_module(module_of(script)).Config())
        known |= {flag(name) for name in settings}
        known |= {flag(f"no_{name}") for name, value in settings.items() if value is False}
    ours = "\n".join(line for line in CODE.splitlines() if "pip" not in line)
    assert set(re.findall(r"(?<!\S)--[a-z-]+", ours)) <= known


def test_modules_and_requirements_exist():
    for module in re.findall(r"python -m (common\.\w+)", CODE):
        importlib.import_module(module)
    for name in re.findall(r"install -r (\S+)", CODE):
        assert (ROOT / name).is_file()


def test_continuous_integration_runs_the_test_command():
    assert "make test " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", TEXT)
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    for target in targets:
        if target.startswith("#"):
            assert target in anchors
        elif not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


def test_map_links_every_script_and_notebook():
    paths = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("chapter*/*")}
    there = {path for path in paths if re.search(r"/(?!__|exercises)\w+\.(py|ipynb)$", path)}
    assert there <= set(re.findall(r"\]\((chapter[^)]+)\)", TEXT))


def test_every_data_set_is_listed():
    for name in datasets.DATA_SETS:
        assert re.search(rf"^\| `{name}` \|", TEXT, re.MULTILINE), name


def test_results_are_those_of_the_committed_files():
    rows = tomllib.loads((ROOT / "results" / "tables.toml").read_text(encoding="utf-8"))["row"]
    if all((ROOT / "results" / f"{row['result']}.json").exists() for row in rows):
        tables = results_table.tables(ROOT)
    else:
        tables = {row["table"]: "Not measured yet." for row in rows}
    assert results_table.filled(TEXT, tables) == TEXT


@pytest.mark.slow
def test_any_keras_model_snippet(capsys):
    (snippet,) = [text for text in SNIPPETS if "keras.Sequential" in text]
    for name, number in SMALL.items():
        snippet, n_found = re.subn(rf"({re.escape(name)}=?)\d+", rf"\g<1>{number}", snippet)
        assert n_found, name
    exec(compile(snippet, "README.md", "exec"), {})
    assert re.search(r"^[\d.]+ ± [\d.]+ %$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_own_images_from_command_to_prediction(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for index in range(6):
        write_images(tmp_path / "photos" / f"class{index}", 2)
    write_images(tmp_path / "known", 5)
    write_images(tmp_path / "asked", 3)
    (flags,) = [flags for _, flags in SCRIPTS if "folder:" in flags]
    command.main(maml.Config, maml.run, maml.experiment.draw, words_of(f"{flags} {FEW_STEPS}"))
    (snippet,) = [text for text in SNIPPETS if "predict_task" in text]
    capsys.readouterr()
    exec(compile(snippet, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" looks")[0] for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]
    listed = re.findall(r"^    (\S+\.(?:json|png|h5))", TEXT, re.MULTILINE)
    (run,) = Path("outputs", "maml").iterdir()
    written = {path.name for path in run.iterdir()}
    assert set(listed) - {"waves.png"} <= written
