"""The audio script: it learns, judges files of one's own, and says what is wrong with the input."""

from dataclasses import replace

from chapter02_siamese import audio, own_files, recognition
from chapter02_siamese.audio import Config
from common import sounds
from common.results import Result
from common.settings import RunSettings

import numpy as np
import pytest
import soundfile

QUICK = ("--filters", "8", "--people", "12", "--eval-pairs", "400", "--eval-episodes", "100")


def start(argv):
    own_files.main(
        Config, audio.run, audio.draw, audio.FILES, recognition.new_siamese, list(map(str, argv))
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A folder with one finished run of the script."""
    folder = tmp_path_factory.mktemp("outputs")
    start([*QUICK, "--steps", "120", "--output-dir", folder])
    return folder


@pytest.fixture
def answer(outputs, capfd):
    """Runs the script with flags, on the weights of the finished run; gives the printed lines."""

    def answer(*flags):
        start(["--output-dir", outputs, *flags])
        printed = capfd.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return answer


@pytest.fixture
def refused(outputs, capfd):
    """Runs the script with flags; it must refuse them in one line, which is returned."""

    def refused(*flags):
        with pytest.raises(SystemExit) as stop:
            start(["--output-dir", outputs, *flags])
        error = capfd.readouterr().err
        assert stop.value.code == 2, error
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
        return error

    return refused


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Calls of two test classes, of several rates, lengths and formats: `a/`, `b.wav`."""
    folder = tmp_path_factory.mktemp("recordings")
    data = sounds.load("sounds", "test")
    (folder / "known" / "a").mkdir(parents=True)
    waves = [data.waveform(index) for index in (0, 1, 2, 20)]
    long = np.pad(np.tile(waves[1], 3), 2000)
    soundfile.write(folder / "known" / "a" / "1.wav", waves[0], data.rate)
    soundfile.write(folder / "known" / "a" / "2.flac", np.stack([long, long], -1), data.rate)
    soundfile.write(folder / "known" / "b.wav", np.repeat(waves[3], 2), 2 * data.rate)
    soundfile.write(folder / "new.ogg", waves[2][: len(waves[2]) // 2], data.rate)
    return folder


def test_classes_never_heard_are_told_apart_better_than_before(outputs):
    (path,) = outputs.glob("audio/*/result.json")
    metrics = Result.load(path).metrics
    assert metrics["siamese_auc"].mean > metrics["random_auc"].mean + 0.05
    assert metrics["siamese_equal_error_rate"].mean < metrics["random_equal_error_rate"].mean - 0.04
    ours, untrained = (metrics[f"{name}_10_way_1_shot"] for name in ("siamese", "random"))
    assert ours.mean - ours.ci95 > untrained.mean + untrained.ci95
    figures = ("pairs", "energies", "roc", "embedding", "learning_curve", "sounds")
    assert {f"{name}.png" for name in figures} <= {file.name for file in path.parent.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        {"features": "mfcc", "loss": "cross_entropy"},
        {"loss": "contrastive", "split": "pairs"},
    ],
)
def test_other_features_and_splits_run(options, tmp_path):
    settings = {"filters": 4, "people": 4, "pairs": 8, "eval_pairs": 60, "eval_episodes": 10}
    config = Config(**settings | options, run=RunSettings(steps=5, dataset="sounds"))
    result = audio.run(config)
    assert np.isfinite([estimate.mean for estimate in result.metrics.values()]).all()
    audio.draw(result, config, tmp_path)
    assert (tmp_path / "sounds.png").exists()


@pytest.mark.slow
def test_digits_by_speakers_never_heard(real_data):
    real_data("audio/fsdd.zip")
    config = replace(Config.for_dataset("fsdd-speakers"), eval_episodes=200)
    result = audio.run(replace(config, run=replace(config.run, steps=100)))
    assert result.metrics["siamese_auc"].mean > result.metrics["random_auc"].mean + 0.05


def test_files_of_any_rate_length_and_format(answer, recordings):
    known = recordings / "known"
    (line,) = answer("--verify", known / "a" / "1.wav", known / "a" / "1.wav")
    assert line.startswith("energy 0.000, threshold ")
    assert line.endswith(": the same")
    (line,) = answer("--verify", known / "a" / "2.flac", known / "b.wav")
    assert line.endswith((": the same", ": different"))
    lines = answer("--enrol", known, "--identify", known / "b.wav", recordings / "new.ogg")
    assert f"{known / 'b.wav'}: b (energy 0.000" in lines[0]
    assert "new.ogg: " in lines[1]


def test_files_that_hold_no_sound(refused, recordings, tmp_path):
    good = recordings / "known" / "b.wav"
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 8000)
    for name, words in (
        ("empty.wav", "empty"),
        ("text.wav", "damaged or of another format"),
        ("zero.wav", "length is zero"),
        ("silence.wav", "nothing but silence"),
        ("missing.wav", "No such file"),
    ):
        message = refused("--verify", good, tmp_path / name)
        assert words in message
        assert name in message


def test_a_run_that_is_not_there(refused, recordings, tmp_path):
    good = recordings / "known" / "b.wav"
    message = refused("--output-dir", tmp_path, "--verify", good, good)
    assert "python chapter02_siamese/audio.py" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--features", "pitch"], "--features must be log_mel or mfcc; got 'pitch'"),
        (["--folds"], "choose fsdd or fsdd-speakers"),
        (["--dataset", "fsdd", "--fold", "5"], "--fold must be 0 to 4, got 5"),
        (["--dataset", "faces"], "data set of sounds"),
    ],
)
def test_settings_that_cannot_be(refused, tmp_path, flags, words):
    assert words in refused("--steps", 1, "--output-dir", tmp_path / "new", *flags)


def test_a_folder_of_one_class(refused, recordings, tmp_path):
    for part in ("train", "validation", "test"):
        folder = tmp_path / part / f"only-{part}"
        folder.mkdir(parents=True)
        soundfile.write(folder / "1.wav", np.sin(np.arange(8000) / 9), 8000)
    assert "add" in refused("--dataset", f"folder:{tmp_path}", "--output-dir", tmp_path / "new")
