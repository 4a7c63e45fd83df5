"""The face script: it learns, judges files of one's own, and says what is wrong with the input."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from chapter02_siamese import audio, face, own_files, recognition
from chapter02_siamese.face import Config
from common import faces, training
from common.errors import UserError
from common.results import Result
from common.settings import RunSettings

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--filters", "8", "--people", "12", "--eval-pairs", "400", "--eval-episodes", "100")


def start(script, argv):
    own_files.main(
        script.Config, script.run, script.draw, script.FILES, recognition.new_siamese, list(argv)
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with one finished run of the script."""
    folder = tmp_path_factory.mktemp("outputs")
    start(face, [*QUICK, "--steps", "150", "--output-dir", str(folder)])
    return folder


@pytest.fixture
def answer(outputs, capfd):
    """Runs the script with flags, on the weights of the finished run; gives the printed lines."""

    def answer(*flags):
        start(face, ["--output-dir", str(outputs), *map(str, flags)])
        printed = capfd.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return answer


@pytest.fixture
def refused(outputs, capfd):
    """Runs the script with flags; it must refuse them in one line, which is returned."""

    def refused(*flags, script=face):
        with pytest.raises(SystemExit) as stop:
            start(script, ["--output-dir", str(outputs), *map(str, flags)])
        error = capfd.readouterr().err
        assert stop.value.code == 2, error
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
        return error

    return refused


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Pictures of three test people, of any size and colour: `anna/`, `bert/` and `carl.png`."""
    folder = tmp_path_factory.mktemp("album")
    for number, name in ((340, "anna"), (341, "bert"), (342, "carl")):
        for index, picture in enumerate(faces.draw_pictures(number, 6)):
            large = cv2.resize(picture, (46 * (2 + index), 56 * 3), interpolation=cv2.INTER_CUBIC)
            colour = cv2.cvtColor(large, cv2.COLOR_GRAY2BGR) if index % 2 else large
            path = folder / "all" / name / f"{index}.{'jpg' if index % 3 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), colour)
    known = folder / "known"
    for name in ("anna", "bert"):
        shutil.copytree(folder / "all" / name, known / name)
        for path in sorted((known / name).iterdir())[3:]:
            path.unlink()
    shutil.copy(folder / "all" / "carl" / "0.png", known / "carl.png")
    (known / "notes.txt").write_text("not a picture, ignored")
    return folder


# It learns


def test_people_never_seen_are_told_apart_better_than_before(outputs):
    (path,) = outputs.glob("face/*/result.json")
    metrics = Result.load(path).metrics
    assert metrics["siamese_auc"].mean > metrics["random_auc"].mean + 0.05
    assert metrics["siamese_auc"].mean > metrics["raw_auc"].mean + 0.02
    assert metrics["siamese_equal_error_rate"].mean < metrics["random_equal_error_rate"].mean - 0.04
    assert metrics["siamese_accuracy"].mean > 0.6
    ours, untrained = (metrics[f"{name}_10_way_1_shot"] for name in ("siamese", "random"))
    assert ours.mean - ours.ci95 > untrained.mean + untrained.ci95
    assert ours.n == 100
    assert metrics["siamese_auc"].n <= 60  # an interval over people


def test_a_run_leaves_all_files(outputs):
    (folder,) = (outputs / "face").iterdir()
    names = {path.name for path in folder.iterdir()}
    figures = {f"{n}.png" for n in ("pairs", "energies", "roc", "embedding", "learning_curve")}
    assert names >= {"config.json", "result.json", "learner.weights.h5", *figures}
    assert json.loads((folder / "result.json").read_text())["extra"]["input_shape"] == [56, 46, 1]


def small(**options):
    settings = {"filters": 4, "people": 4, "pairs": 8, "eval_pairs": 60, "eval_episodes": 10}
    return Config(**settings | options, run=RunSettings(steps=20, dataset="faces"))


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "contrastive"},
        {"loss": "contrastive", "energy": "cosine", "split": "pairs"},
        {"loss": "cross_entropy", "augment": False},
        {"energy": "manhattan", "k_shot": 3, "n_way": 4},
    ],
)
def test_every_loss_and_split_runs(options):
    result = face.run(small(**options))
    way = f"siamese_{options.get('n_way', 10)}_way_{options.get('k_shot', 1)}_shot"
    assert set(result.metrics) >= {"siamese_auc", "siamese_equal_error_rate", way, "raw_auc"}
    assert np.isfinite([estimate.mean for estimate in result.metrics.values()]).all()


def test_an_interrupted_run_ends_like_an_unbroken_one(tmp_path, monkeypatch):
    unbroken = face.run(small(), tmp_path / "unbroken")
    saved = training.Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        saved(self, epoch, logs)
        if epoch == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        face.run(small(), tmp_path / "resumed")
    monkeypatch.setattr(training.Checkpoint, "on_epoch_end", saved)
    resumed = face.run(small(), tmp_path / "resumed")
    assert resumed.metrics == unbroken.metrics
    assert resumed.history == unbroken.history


def drawn_before(n_people=6):
    """`load` of few invented people as if they were photographs, and what it was asked for."""
    asked = []

    def load(name, split, data_dir, fold):
        asked.append((name, split))
        first = {"train": 0, "validation": n_people, "test": 2 * n_people}[split]
        numbers = range(first, first + n_people)
        return faces.FewShotData.from_drawings(
            np.stack([faces.draw_pictures(number, 4) for number in numbers]),
            class_names=tuple(map(str, numbers)), class_groups=("x",) * n_people,
            name="few", split=split,
        )  # fmt: skip

    return load, asked


def test_training_begins_on_drawn_faces(tmp_path):
    load, asked = drawn_before()
    photographs = RunSettings(steps=1, dataset="att_faces")
    scratch, pretrained = (replace(small(pretrain_steps=n), run=photographs) for n in (0, 5))
    plain = recognition.run(scratch, load, None)
    assert [name for name, _ in asked] == ["att_faces"] * 3
    asked.clear()
    folder = tmp_path / "run"
    begun = recognition.run(pretrained, load, None, folder)
    assert [pair for pair in asked if pair[0] == "faces"] == [("faces", "train")]
    assert begun.history["step"] == plain.history["step"] == [1]
    assert begun.metrics["random_auc"] == plain.metrics["random_auc"]
    energies = [result.extra["energies"]["siamese"] for result in (plain, begun)]
    assert not np.allclose(*energies, atol=1e-3)
    asked.clear()
    resumed = recognition.run(pretrained, load, None, folder)  # its checkpoint has all weights
    assert {name for name, _ in asked} == {"att_faces"}
    assert resumed.metrics == begun.metrics


def test_too_few_pictures_are_refused_before_training_on_drawn_faces():
    load, asked = drawn_before()
    with pytest.raises(UserError, match=r"at least 5 items.*--items, found 4"):
        recognition.run(small(pretrain_steps=5, items=5), load, None)
    assert len(asked) == 3


def test_folds_test_everyone_once(tmp_path, monkeypatch):
    tested = []

    def load(name, split, data_dir, fold):
        numbers = {"train": range(4, 12), "validation": range(12, 18), "test": range(18, 24)}
        numbers = np.roll(np.arange(24), 6 * fold)[list(numbers[split])]
        if split == "test":
            tested.extend(numbers.tolist())
        return faces.FewShotData.from_drawings(
            np.stack([faces.draw_pictures(number, 4) for number in numbers]),
            class_names=tuple(map(str, numbers)), class_groups=("x",) * len(numbers),
            name="few", split=split,
        )  # fmt: skip

    config = replace(small(), run=RunSettings(steps=2, dataset="att_faces"), folds=True)
    result = recognition.run(config, load, None, tmp_path)
    assert sorted(tested) == list(range(24))
    assert result.metrics["siamese_auc"].n == 4
    means = [fold["siamese_auc"].mean for fold in result.extra["folds"]]
    assert result.metrics["siamese_auc"].mean == pytest.approx(np.mean(means))
    assert (tmp_path / "fold3" / "learner.weights.h5").exists()


@pytest.mark.slow
def test_photographs_of_people_never_seen(real_data):
    real_data("faces/att_faces.zip")
    config = replace(Config.for_dataset("att_faces"), eval_episodes=200)
    result = face.run(replace(config, run=replace(config.run, steps=100)))
    assert result.metrics["siamese_auc"].mean > 0.93
    assert result.metrics["siamese_10_way_1_shot"].mean > 0.75


# Files of one's own


def test_verify_says_energy_threshold_and_verdict(answer, album, outputs):
    (path,) = outputs.glob("face/*/result.json")
    threshold = f"threshold {Result.load(path).extra['threshold']:.3f}"
    same = album / "all" / "anna" / "0.png"
    (line,) = answer("--verify", same, same)
    assert line == f"energy 0.000, {threshold}: the same person"
    (there,) = answer("--verify", same, album / "all" / "bert" / "1.jpg")
    (back,) = answer("--verify", album / "all" / "bert" / "1.jpg", same)
    assert there == back
    assert threshold in there
    energy = float(there.split()[1].strip(","))
    verdict = "the same person" if energy <= float(there.split()[3].strip(":")) else "different"
    assert verdict in there


def test_identify_names_known_people(answer, album, outputs):
    known = album / "known"
    lines = answer("--enrol", known, "--identify", known / "anna" / "0.png", known / "carl.png")
    assert len(lines) == 2
    assert f"{known / 'carl.png'}: carl (energy 0.000" in lines[1]
    (folder,) = (outputs / "face").iterdir()
    question = ["--weights", folder, "--enrol", known, "--identify"]
    lines = answer(*question, *(album / "all" / n / "5.jpg" for n in ("anna", "bert", "carl")))
    named = [line.split(": ", 1)[1].split(" (")[0] for line in lines]
    assert all(name in ("anna", "bert", "carl", "unknown") for name in named)


def test_what_is_far_from_all_is_unknown(answer, album, outputs, tmp_path):
    (folder,) = (outputs / "face").iterdir()
    strict = tmp_path / "strict"
    shutil.copytree(folder, strict)
    content = json.loads((strict / "result.json").read_text())
    content["extra"]["threshold"] = 1e-6
    (strict / "result.json").write_text(json.dumps(content))
    picture = album / "all" / "anna" / "5.jpg"
    (line,) = answer("--weights", strict, "--enrol", album / "known", "--identify", picture)
    assert ": unknown (nearest: " in line


# What is wrong with the input


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "damaged"), (b"no picture", "damaged"), (None, "No such file")],
)
def test_files_that_are_no_pictures(refused, album, tmp_path, content, words):
    bad, good = tmp_path / "bad.png", album / "known" / "carl.png"
    if content is not None:
        bad.write_bytes(content)
    for flags in (["--verify", bad, good], ["--enrol", album / "known", "--identify", good, bad]):
        message = refused(*flags)
        assert words in message
        assert "bad.png" in message


def test_a_picture_that_shows_nothing_is_refused(refused, album, tmp_path):
    even, good = tmp_path / "even.png", album / "known" / "carl.png"
    cv2.imwrite(str(even), np.full((50, 40), 255, np.uint8))
    message = refused("--verify", good, even)
    assert "even.png" in message
    assert "even grey" in message


def test_enrolled_folders_that_hold_nothing(refused, album, tmp_path):
    picture = album / "known" / "carl.png"
    assert "found none" in refused("--enrol", tmp_path, "--identify", picture)
    (tmp_path / "dora").mkdir()
    assert "dora" in refused("--enrol", tmp_path, "--identify", picture)
    assert "expects a folder" in refused("--enrol", tmp_path / "none", "--identify", picture)


def test_questions_that_are_not_whole(refused, album):
    picture = album / "known" / "carl.png"
    assert "go together" in refused("--identify", picture)
    assert "go together" in refused("--enrol", album / "known")
    assert "--weights goes with" in refused("--weights", album)


def test_weights_that_are_not_there_or_of_another_network(refused, outputs, album, tmp_path):
    picture = album / "known" / "carl.png"
    question = ["--verify", picture, picture]
    message = refused("--output-dir", tmp_path, *question)
    assert "found no finished run" in message
    assert "python chapter02_siamese/face.py" in message
    assert "found none in" in refused("--weights", tmp_path, *question)

    (folder,) = (outputs / "face").iterdir()
    message = refused("--weights", folder, *question, script=audio)
    assert "is a run of face, expected one of audio" in message
    assert "is not finished" in refused("--weights", changed(folder, tmp_path, None), *question)
    for name, value in (("filters", 4), ("embedding", 32), ("loss", "cross_entropy")):
        other = changed(folder, tmp_path, {name: value})
        assert "of another network" in refused("--weights", other, *question)
    broken = changed(folder, tmp_path, {})
    (broken / "learner.weights.h5").write_bytes(b"broken")
    assert "damaged" in refused("--weights", broken, *question)
    (broken / "learner.weights.h5").unlink()
    assert "missing" in refused("--weights", broken, *question)


def changed(folder, tmp_path, settings):
    """A copy of a run with other settings; with None one without its result."""
    copy = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    shutil.copytree(folder, copy)
    if settings is None:
        (copy / "result.json").unlink()
    else:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | settings))
    return copy


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--loss", "hinge"],
            "--loss must be contrastive or cross_entropy or triplet",
        ),
        (["--energy", "learned"], "with --loss triplet; got 'learned'"),
        (["--loss", "cross_entropy", "--energy", "cosine"], "--energy must be learned with"),
        (["--split", "pairs"], "--loss contrastive or cross_entropy"),
        (["--fold", "1"], "faces is split in one way only"),
        (["--folds"], "choose att_faces or olivetti"),
        (["--dataset", "att_faces", "--fold", "4"], "--fold must be 0 to 3, got 4"),
        (["--dataset", "att_faces", "--folds", "--fold", "2"], "leave out --fold 2"),
        (["--margin", "0"], "--margin must be greater than 0"),
        (["--loss", "cross_entropy", "--margin", "1"], "--margin goes with --loss contrastive or"),
        (["--items", "1"], "--items must be at least 2, got 1"),
        (["--embedding", "1"], "--embedding must be at least 2, got 1"),
        (["--pretrain-steps", "-1"], "--pretrain-steps must be at least 0, got -1"),
        (["--n-way", "61"], "at least n_way=61 classes, found 60"),
        (["--dataset", "glyphs"], "data set of faces"),
    ],
)
def test_settings_that_cannot_be(refused, tmp_path, flags, words):
    quick = ["--steps", "1", "--filters", "2", "--output-dir", tmp_path / "new"]
    assert words in refused(*quick, *flags)


def test_a_folder_of_one_person(refused, tmp_path):
    for part in ("train", "validation", "test"):
        person = tmp_path / part / f"only-{part}"
        person.mkdir(parents=True)
        cv2.imwrite(str(person / "1.png"), np.zeros((9, 9), np.uint8))
    message = refused("--dataset", f"folder:{tmp_path}", "--output-dir", tmp_path / "new")
    assert "at least 2 class folders" in message
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").rglob("*.json"))


@pytest.mark.slow
def test_help_of_the_script_names_all_that_it_does():
    script = ROOT / "chapter02_siamese" / "face.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for flag in ("--verify", "--enrol", "--identify", "--weights", "--folds", "--loss"):
        assert flag in done.stdout
