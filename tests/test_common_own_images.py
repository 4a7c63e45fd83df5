"""Recognising one's own images: which weights are taken, what is printed, every mistake."""

import shutil
from dataclasses import replace

from chapter03_protonets import protonet
from chapter03_protonets.protonet import Config, ProtoNet
from common import metric_experiment, own_images, training

import cv2
import keras
import numpy as np
import pytest

SHAPE = (28, 28, 1)


def letter(character, ink=0, paper=255, shape=(90, 120), at=(30, 70), thickness=6):
    image = np.full((*shape, 3), paper, np.uint8)
    return cv2.putText(image, character, at, cv2.FONT_HERSHEY_SIMPLEX, 2.2, ink, thickness)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def classes(tmp_path):
    folder = tmp_path / "classes"
    for character in "XOI":
        write(folder / f"{character}.png", letter(character, (0, 0, 0)))
    return folder


@pytest.fixture
def query(tmp_path):
    return write(tmp_path / "query.jpg", letter("O", (255, 255, 0), (60, 0, 0), (200, 150)))


# Answers.


@pytest.fixture
def pixels():
    """Compares images by their pixels."""
    inputs = keras.Input(SHAPE)
    return ProtoNet(keras.Model(inputs, keras.layers.Flatten()(inputs)))


def test_the_nearest_class_is_the_answer_and_what_is_far_is_unknown(pixels, classes):
    known = own_images.read_classes(classes)
    queries = [known["X"][0], letter("O", 255, 0)[..., 0], letter("M", 0, thickness=14)[..., 0]]
    recognition = {"input_shape": SHAPE, "drawn": True, "accepted": {"1": 20.0}}
    answers = own_images.recognise(pixels, recognition, known, queries)
    probabilities, distances, limit = answers
    assert list(known) == ["I", "O", "X"]
    assert probabilities.argmax(axis=1)[:2].tolist() == [2, 1]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert limit == 20.0
    assert distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[2] > 20
    lines = own_images.report(["a.png", "b.png", "longer.png"], list(known), *answers).split("\n")
    assert lines[0].startswith("a.png       X ")
    assert lines[1].startswith("b.png       O ")
    assert lines[2].startswith("longer.png  unknown: at ")
    assert lines[2].endswith("the limit is 20")


def test_without_calibration_nothing_is_unknown(pixels, classes):
    known = own_images.read_classes(classes)
    recognition = {"input_shape": SHAPE, "drawn": True, "accepted": {}}
    answers = own_images.recognise(pixels, recognition, known, [known["O"][0]])
    assert "unknown" not in own_images.report(["a.png"], list(known), *answers)


# The command line.


def start(*flags):
    flags = ["--smoke", "--steps", "1", "--eval-episodes", "2", *map(str, flags)]
    own_images.main(Config, protonet.run, metric_experiment.draw, protonet.new_learner, flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output folder with one finished run."""
    place = tmp_path_factory.mktemp("outputs")
    start("--output-dir", place)
    return place


def run_of(place):
    (folder,) = (place / "protonet").iterdir()
    return folder


def refusal(capfd, *flags):
    with pytest.raises(SystemExit) as stop:
        start(*flags)
    error = capfd.readouterr().err
    assert stop.value.code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error


def test_without_weights_a_training_comes_first(classes, query, tmp_path, capfd):
    place = tmp_path / "outputs"
    flags = ("--support", classes, "--query", query, query, "--output-dir", place)
    start(*flags)
    printed = capfd.readouterr().out
    assert "no finished run of protonet" in printed
    assert f"weights of {run_of(place)}" in printed
    first = printed.strip().split("\n")[-2:]
    assert all(line.startswith(str(query)) for line in first)
    start(*flags)  # now from the weights: no second run
    printed = capfd.readouterr().out
    assert "no finished run" not in printed
    assert printed.strip().split("\n")[-2:] == first
    assert run_of(place)


def test_weights_of_a_run_from_elsewhere(finished, classes, query, tmp_path, capfd):
    moved = shutil.copytree(run_of(finished), tmp_path / "moved")
    flags = ("--support", classes, "--query", query, "--weights")
    start(*flags, moved)
    expected = capfd.readouterr().out.strip().split("\n")[-1]
    (moved / "result.json").unlink()  # calibrated again if need be
    start(*flags, moved)
    again = capfd.readouterr().out.strip().split("\n")[-1]
    assert again.split()[:2] == expected.split()[:2]


def test_the_newest_finished_run_is_taken(finished, tmp_path):
    place = shutil.copytree(finished, tmp_path / "outputs")
    config = own_images.restored(Config.smoke(), {"output_dir": str(place)})
    folder = run_of(place)
    assert own_images.newest_run(config, "protonet") == folder
    newer = shutil.copytree(folder, folder.with_name("newer"))
    (newer / "result.json").touch()
    assert own_images.newest_run(config, "protonet") == newer
    settings = (newer / "config.json").read_text()
    (newer / "config.json").write_text(settings.replace('"seed": 0', '"seed": 7'))
    seeds = {seed: replace(config, run=replace(config.run, seed=seed)) for seed in (7, 8)}
    assert own_images.newest_run(seeds[7], "protonet") == newer
    assert own_images.newest_run(seeds[8], "protonet") is None
    other = replace(config, distance="cosine")
    assert own_images.newest_run(other, "protonet") is None
    (newer / "config.json").write_text(settings.replace('"glyphs"', '"fsdd"'))  # no images
    assert own_images.newest_run(config, "protonet") == folder
    (newer / "config.json").write_text(settings)
    (newer / "learner.weights.h5").unlink()
    assert own_images.newest_run(config, "protonet") == folder
    (folder / "result.json").unlink()
    assert own_images.newest_run(config, "protonet") is None


def test_wrong_weights(finished, classes, query, tmp_path, capfd):
    flags = ("--support", classes, "--query", query, "--weights")
    folder = shutil.copytree(run_of(finished), tmp_path / "run")
    assert "cannot read the settings of a run" in refusal(capfd, *flags, tmp_path)
    other_settings = (*flags, folder, "--distance", "cosine")
    assert "was trained without --distance cosine" in refusal(capfd, *other_settings)
    settings = (folder / "config.json").read_text()
    (folder / "config.json").write_text(settings.replace('"norm": "fused"', '"norm": "layer"'))
    assert "of another network than this conv4" in (error := refusal(capfd, *flags, folder))
    assert error.endswith("file. Choose another folder for --weights.\n")  # Keras's first sentence
    (folder / "config.json").write_text(settings.replace('"protonet"', '"maml"'))
    assert "is a run of maml, expected one of protonet" in refusal(capfd, *flags, folder)
    zero_shot = settings.replace('"zero_shot": false', '"zero_shot": true')
    (folder / "config.json").write_text(zero_shot)
    assert "one of --zero-shot" in refusal(capfd, *flags, folder)
    (folder / "config.json").write_text(settings.replace('"glyphs"', '"sounds"'))
    assert "found one with the sounds of sounds" in refusal(capfd, *flags, folder)
    (folder / "config.json").write_text(settings)
    (folder / "learner.weights.h5").write_bytes(b"damaged")
    assert "learner.weights.h5 is damaged" in refusal(capfd, *flags, folder)
    (folder / "learner.weights.h5").unlink()
    assert "one without weights" in refusal(capfd, *flags, folder)


def test_wrong_files(classes, query, tmp_path, capfd):
    def refused(support, *queries):
        place = tmp_path / "outputs"
        error = refusal(capfd, "--output-dir", place, "--support", support, "--query", *queries)
        assert not place.exists()  # before any training
        return error

    assert "no such folder" in refused(tmp_path / "nowhere", query)
    assert "there is no such file" in refused(classes, query, tmp_path / "nothing.png")
    assert "there is no such file" in refused(classes, tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no image")
    assert f"Expected an image in {text}" in refused(classes, text)
    text.write_bytes(b"")
    assert f"Expected an image in {text}" in refused(classes, query, text)
    write(classes / "folder" / "a.png", letter("X"))
    assert "found both" in refused(classes, query)
    shutil.rmtree(classes / "folder")
    (classes / "X.png").write_text("no image")
    assert "X.png" in refused(classes, query)
    (classes / "X.png").unlink()
    (classes / "O.png").unlink()
    assert "at least 2 classes in" in (error := refused(classes, query))
    assert "found I" in error
    (classes / "I.png").unlink()
    assert "found none" in refused(classes, query)
    (classes / "birch").mkdir()
    (classes / "alder").mkdir()
    assert "found none" in refused(classes, query)


def test_images_are_not_recognised_by_a_network_of_sounds(classes, query, capfd):
    flags = ("--dataset", "sounds", "--support", classes, "--query", query)
    assert "a network of images, not of sounds" in refusal(capfd, *flags)


def test_an_even_page_is_refused(finished, classes, tmp_path, capfd):
    page = write(tmp_path / "page.png", np.full((50, 50), 200, np.uint8))
    flags = ("--output-dir", finished, "--support", classes, "--query", page)
    assert f"expected a drawing in {page}" in refusal(capfd, *flags)


def test_a_run_is_resumed_without_own_images(classes, query, tmp_path, capfd):
    (tmp_path / "protonet").mkdir()
    with pytest.raises(SystemExit):
        start("--resume", "--output-dir", tmp_path, "--support", classes, "--query", query)
    assert "found no unfinished run" in capfd.readouterr().err


def test_weights_are_loaded_whole(finished):
    config = Config.smoke()
    learner, _ = own_images.restore(run_of(finished), config, "protonet", protonet.new_learner)
    again = protonet.new_learner(config, SHAPE)
    training.load_weights(again, run_of(finished) / "learner.weights.h5", "")
    for ours, theirs in zip(learner.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
