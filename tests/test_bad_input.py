"""Every mistake ends in one line that says what to do, status 2, and nothing half written."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from chapter05_maml_adml import maml
from common import command, experiment, files, networks, training
from common.episodes import EpisodeSampler
from common.errors import UserError
from common.sine import SineTasks

import cv2
import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--steps", "2", "--eval-episodes", "2", "--baseline-steps", "0")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capfd):
    """Runs the script with the flags; it must refuse them in one line, which is returned."""

    def refused(*flags):
        with warnings.catch_warnings(record=True) as heard, pytest.raises(SystemExit) as stop:
            command.main(maml.Config, maml.run, experiment.draw, [*QUICK, *flags])
        assert [str(w.message) for w in heard if issubclass(w.category, UserWarning)] == []
        printed = capfd.readouterr()
        return check_refusal(stop.value.code, printed.err)

    return refused


def check_refusal(status, error):
    assert status == 2, error
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    return error.removeprefix("error: ").strip()


def start(*flags, **options):
    """The script in a process of its own."""
    script = ROOT / "chapter05_maml_adml" / "maml.py"
    return subprocess.run(
        [sys.executable, script, *QUICK, *flags], capture_output=True, text=True, timeout=300,
        **options,
    )  # fmt: skip


def leftovers(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def make_images(folder, n_classes, n_items):
    random = np.random.default_rng(0)
    for label in range(n_classes):
        class_folder = folder / f"class{label:02d}"
        class_folder.mkdir(parents=True)
        for item in range(n_items):
            image = random.integers(0, 255, (9, 9), dtype=np.uint8)
            cv2.imwrite(str(class_folder / f"{item}.png"), image)
    return f"folder:{folder}"


# Numbers


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--k-shot", "0"], "--k-shot must be at least 1, got 0"),
        (["--test-k-shot", "0"], "--test-k-shot must be at least 1, got 0"),
        (["--n-query", "0"], "--n-query must be at least 1, got 0"),
        (["--n-way", "0"], "--n-way must be at least 1, got 0"),
        (["--inner-lr", "-0.1"], "--inner-lr must be greater than 0, got -0.1"),
        (["--outer-lr", "-0.1"], "--outer-lr must be greater than 0, got -0.1"),
        (["--outer-lr", "nan"], "--outer-lr must be a finite number, got nan"),
        (["--later-lr-factor", "-1"], "--later-lr-factor must be greater than 0, got -1.0"),
        (["--inner-steps", "-1"], "--inner-steps must be at least 0, got -1"),
        (["--test-steps", "-1"], "--test-steps must be at least 0, got -1"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--meta-batch-size", "0"], "--meta-batch-size must be at least 1, got 0"),
        (["--eval-episodes", "1"], "--eval-episodes must be at least 2, got 1"),
        (["--baseline-steps", "-1"], "--baseline-steps must be at least 0, got -1"),
        (["--filters", "0"], "--filters must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--seed", str(2**40)], f"--seed must be at most {2**30 - 1}, got {2**40}"),
        (["--order", "3"], "order must be 1 (first-order) or 2 (exact); got 3"),
        (["--n-way", "5"], "choose a data set with classes"),
        (["--rotations"], "choose a data set with classes"),
    ],
)
def test_numbers_out_of_range(place, refused, flags, words):
    assert words in refused(*flags)
    assert leftovers(place) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n-way", "1"], ["n_way", "2", "found 1"]),
        (["--k-shot", "20"], ["21 items", "k_shot=20", "found 20", "lower k_shot"]),
        (["--norm", "group"], ["batch or layer or none", "'group'"]),
        (["--order", "3"], ["order", "3"]),
    ],
)
def test_numbers_that_images_cannot_satisfy(place, refused, flags, words):
    message = refused("--dataset", "glyphs", *flags)
    assert all(word in message for word in words), message
    assert leftovers(place) == []


def test_training_that_never_takes_a_step():
    # In float16 the optimizer scales the loss, and skips steps whose gradients are not finite.
    learner = maml.MAML(networks.mlp(hidden=(4,)), inner_lr=1e38, loss="mse")
    learner.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    sampler = EpisodeSampler(SineTasks(), n_way=1, k_shot=5, n_query=5)
    with pytest.raises(UserError, match="not finite in any step after step 0: lower --inner-lr"):
        training.train(learner, sampler, steps=3, meta_batch_size=2)


def test_training_that_leaves_the_numbers(place, refused):
    message = refused("--inner-lr", "1e30")
    assert "not finite" in message
    assert "lower --inner-lr" in message


# Data


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glyph", "Did you mean glyphs?"),
        ("MNIST", "sine, sine-frequency, sine-phase, glyphs, omniglot, omniglot-random, faces"),
        ("", "must name a data set"),
        ("folder:", "no such folder"),
        ("folder:missing", "folder:missing"),
        ("folder:empty", "at least 6 class folders in empty"),
        ("empty", "Did you mean folder:empty?"),
    ],
)
def test_unknown_data_and_missing_or_empty_folder(place, refused, name, words):
    (place / "empty").mkdir()
    assert words in refused("--dataset", name)
    assert leftovers(place) == []


def test_missing_data_dir(place, refused):
    message = refused("--dataset", "omniglot", "--data-dir", "missing")
    assert message == "Expected a folder of data sets in missing, but there is none."
    assert leftovers(place) == []


@pytest.mark.parametrize(
    ("n_classes", "n_items", "flags", "words"),
    [
        (3, 2, [], ["at least 6 class folders", "found 3", "add classes"]),
        (12, 2, ["--no-rotations"], ["n_way=5 classes", "found 4", "add classes"]),
        (30, 2, ["--n-way", "90"], ["n_way=90 classes", "found 76", "add classes"]),
        (30, 2, ["--k-shot", "5"], ["6 items in every class", "found 2 in class 'class"]),
        (30, 2, ["--n-query", "2"], ["3 items in every class", "found 2 in class 'class"]),
    ],
)
def test_too_few_classes_or_images(place, refused, n_classes, n_items, flags, words):
    name = make_images(place / "images", n_classes, n_items)
    message = refused("--dataset", name, *flags)
    assert all(word in message for word in words), message
    assert leftovers(place / "outputs") == []


@pytest.mark.parametrize("content", [b"no image", b""])
def test_corrupt_image_is_named(place, refused, content):
    name = make_images(place / "images", 15, 2)
    (place / "images" / "class03" / "1.png").write_bytes(content)
    message = refused("--dataset", name)
    assert message == (
        f"Expected an image in {place}/images/class03/1.png, but it is damaged or of another "
        "format: replace or remove it."
    )
    assert leftovers(place / "outputs") == []


def test_image_that_is_cut_off_is_named(place, capsys):
    name = make_images(place / "images", 15, 2)
    image = place / "images" / "class03" / "1.png"
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(SystemExit) as stop:
        command.main(maml.Config, maml.run, experiment.draw, [*QUICK, "--dataset", name])
    assert f"Expected an image in {image}" in check_refusal(
        stop.value.code, capsys.readouterr().err
    )
    assert leftovers(place / "outputs") == []


def test_class_without_images_is_named(place, refused):
    name = make_images(place / "images", 15, 1)
    (place / "images" / "class03" / "0.png").unlink()
    assert f"the class folder {place}/images/class03, found none" in refused("--dataset", name)
    assert leftovers(place / "outputs") == []


@pytest.mark.parametrize("name", ["omniglot", "omniglot-random"])
def test_archive_that_is_none(place, refused, name):
    for archive in ("images_background.zip", "images_evaluation.zip"):
        (place / archive).write_text("<html>Not found</html>")
    message = refused("--dataset", name, "--data-dir", str(place))
    assert f"Expected an archive of Omniglot in {place}/images_background.zip" in message
    assert "delete it" in message
    assert leftovers(place / "outputs") == []


@pytest.mark.parametrize("part", ["start", "other archive"])
def test_archive_that_is_not_whole(place, refused, real_data, part):
    shutil.copy(real_data("omniglot/images_evaluation.zip"), place)
    broken = place / "images_background.zip"
    if part == "start":
        with real_data("omniglot/images_background.zip").open("rb") as whole:
            broken.write_bytes(whole.read(1_000_000))
        words = "cannot be read"
    else:
        shutil.copy(real_data("omniglot/images_background_small1.zip"), broken)
        words = "Expected 964 characters"
    message = refused("--dataset", "omniglot", "--data-dir", str(place))
    assert words in message
    assert str(broken) in message
    assert leftovers(place / "outputs") == []


def test_no_network_names_the_data_set_that_needs_none(place, refused, monkeypatch):
    monkeypatch.delenv("META_LEARNING_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(place))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(files, "RETRY_PAUSES", (0.0,))
    message = refused("--dataset", "omniglot")
    assert message.startswith("Could not download https://")
    assert "--data-dir or META_LEARNING_DATA" in message
    assert message.endswith("or take the data set glyphs, which needs no network.")
    assert leftovers(place) == []


# Where runs are written and continued


def test_a_file_in_the_place_of_the_output_folder(place, refused):
    (place / "taken").write_text("mine")
    for output in ("taken", "taken/deeper"):
        message = refused("--output-dir", output)
        assert message.startswith(f"cannot make a folder in {output}/maml (")
        assert message.endswith("choose another --output-dir")
    assert leftovers(place) == [place / "taken"]
    assert (place / "taken").read_text() == "mine"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a whole run."""
    outputs = tmp_path_factory.mktemp("outputs")
    flags = [*QUICK, "--output-dir", str(outputs)]
    command.main(maml.Config, maml.run, experiment.draw, flags)
    (folder,) = (outputs / "maml").iterdir()
    return folder


@pytest.fixture
def stopped_run(finished_run, place):
    """The folder of a run that was stopped after its training."""
    folder = shutil.copytree(finished_run, place / "outputs" / "maml" / "stopped")
    (folder / "result.json").unlink()
    return folder


def resume(refused, *flags):
    """`--resume` must be refused and leave all files of the run as they are."""
    before = {path: path.read_bytes() for path in leftovers(Path("outputs"))}
    message = refused("--resume", *flags)
    after = {path: path.read_bytes() for path in leftovers(Path("outputs"))}
    for content in (before, after):
        for path in [path for path in content if path.name == "clock.json"]:
            del content[path]
    assert after == before
    return message


def test_nothing_to_resume(place, refused, finished_run):
    message = refused("--resume")
    assert "found no unfinished run in outputs/maml" in message
    assert "leave out --resume" in message
    assert "expects the folder of a run, found none in missing" in refused("--resume", "missing")
    assert "is finished" in refused("--resume", str(finished_run))
    assert leftovers(place) == []


def test_resume_with_another_configuration(refused, stopped_run):
    message = resume(refused, "--inner-lr", "0.5", "--seed", "3")
    assert "--inner-lr 0.01 (now 0.5)" in message
    assert "--seed 0 (now 3)" in message
    assert "leave these flags out to continue it, or leave out --resume" in message


def test_resume_of_damaged_settings(refused, stopped_run):
    settings = stopped_run / "config.json"
    settings.write_text(settings.read_text()[:100])
    assert "config.json is damaged" in resume(refused)


@pytest.mark.parametrize(
    "damage", ["cut off", "text", "empty", "no curve", "other network", "no optimizer"]
)
def test_resume_of_a_checkpoint_that_does_not_fit(refused, stopped_run, damage):
    (weights,) = stopped_run.glob("checkpoint/*.weights.h5")
    (curve,) = stopped_run.glob("checkpoint/*.json")
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "text":
        weights.write_text("no weights")
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "no curve":
        curve.write_text("{")
    elif damage == "other network":
        other = maml.MAML(networks.mlp(hidden=(7,)), 0.01, loss="mse")
        other.compile(keras.optimizers.Adam())
        other.optimizer.build(other.trainable_variables)
        other.save_weights(weights)
    else:
        maml.MAML(networks.mlp(), 0.01, loss="mse").save_weights(weights)
    message = resume(refused)
    damaged = curve if damage == "no curve" else weights
    assert str(damaged.relative_to(Path.cwd())) in message
    assert "damaged, or of another network" in message
    assert "without --resume" in message


# In a process of its own, where nothing is caught that Python does not write.


@pytest.mark.slow
def test_mistake_in_a_process_of_its_own(place):
    done = start("--dataset", "folder:photos")
    message = check_refusal(done.returncode, done.stderr)
    assert "folder:photos" in message
    assert done.stdout == ""
    assert leftovers(place) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", [300, 20_000])
def test_full_disk(place, limit):
    # A limit on the size of files stands in for the disk: settings and checkpoint do not fit.
    resource = pytest.importorskip("resource")

    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = start(preexec_fn=set_limit)
    message = check_refusal(done.returncode, done.stderr)
    assert "Could not write outputs/maml/" in message
    assert "free some space" in message
    written = leftovers(place / "outputs")
    assert not [path for path in written if path.name.startswith(".")]
