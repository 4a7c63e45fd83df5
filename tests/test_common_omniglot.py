"""Omniglot: made-up archives for what can go wrong, the real ones where they are."""

import functools
import hashlib
import threading
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler

from common import files, omniglot, omniglot_archives
from common.datasets import SPLITS, load
from common.errors import UserError
from common.omniglot_archives import find_archive

import cv2
import numpy as np
import pytest

BACKGROUND = {"Greek": 2, "Futurama": 1, "Korean": 2, "Latin": 3}  # characters of each alphabet
EVALUATION = {"Angelic": 2, "Oriya": 2}


def drawing(number):
    image = np.full((105, 105), 255, np.uint8)
    cv2.circle(image, (52, 52), 10 + number, 0, 3)
    return cv2.imencode(".png", image)[1].tobytes()


def write_archive(path, alphabets):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"__MACOSX/{path.stem}/Greek/character01/._0001_01.png", b"no image")
        for alphabet, n_characters in alphabets.items():
            for character in range(1, n_characters + 1):
                for number in range(1, 21):
                    name = f"{alphabet}/character{character:02}/0001_{number:02}.png"
                    archive.writestr(f"{path.stem}/{name}", drawing(number))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Small archives in a folder, and a loader that expects what they hold."""
    write_archive(tmp_path / "data" / "images_background.zip", BACKGROUND)
    write_archive(tmp_path / "data" / "images_evaluation.zip", EVALUATION)
    for name, n_characters in (("BACKGROUND", 8), ("EVALUATION", 4)):
        archive = getattr(omniglot, name)
        content = (tmp_path / "data" / f"{archive.name}.zip").read_bytes()
        small_archive = archive._replace(
            md5=hashlib.md5(content).hexdigest(), n_characters=n_characters
        )
        monkeypatch.setattr(omniglot, name, small_archive)
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("META_LEARNING_DATA", raising=False)
    monkeypatch.setattr(files, "RETRY_PAUSES", (0, 0))
    monkeypatch.setattr(omniglot_archives, "SOURCE", "http://127.0.0.1:9")  # nobody is there
    return tmp_path / "data"


def test_official_split_is_by_alphabet(small):
    groups = [load("omniglot", split, small).class_groups for split in SPLITS]
    assert groups == [
        ("Korean",) * 2 + ("Latin",) * 3,
        ("Futurama",) + ("Greek",) * 2,
        ("Angelic",) * 2 + ("Oriya",) * 2,
    ]


def test_items_are_ink_on_nothing(small):
    data = load("omniglot", "train", small)
    assert data.class_names[0] == "Korean/character01"
    assert data.items.shape == (5 * 20, 28, 28, 1)
    assert data.items.dtype == np.uint8
    assert (data.items[:, 0, 0] == 0).all()
    assert data.items.max(axis=(1, 2, 3)).min() > 150
    image = cv2.imdecode(np.frombuffer(drawing(1), np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_allclose(data.items[0].mean(), 255 - image.mean(), atol=1)


def test_archives_are_found_in_every_place(small, tmp_path, monkeypatch):
    assert find_archive("images_background") is None
    keras = tmp_path / "keras" / "datasets" / "images_background.zip"
    write_archive(keras, BACKGROUND)
    assert find_archive("images_background") == keras
    write_archive(tmp_path / "env" / "omniglot" / "images_background.zip", BACKGROUND)
    monkeypatch.setenv("META_LEARNING_DATA", str(tmp_path / "env"))
    assert find_archive("images_background").parent == tmp_path / "env" / "omniglot"
    assert find_archive("images_background", small).parent == small


def test_unpacked_folders_give_the_same(small, tmp_path):
    expected = load("omniglot", "test", small)
    for name in ("images_background", "images_evaluation"):
        zipfile.ZipFile(small / f"{name}.zip").extractall(tmp_path / "unpacked" / "omniglot")
    data = load("omniglot", "test", tmp_path / "unpacked")
    np.testing.assert_array_equal(data.items, expected.items)
    assert data.class_names == expected.class_names


def test_the_second_load_is_from_the_cache(small, monkeypatch):
    first = load("omniglot", "train", small)
    monkeypatch.setattr(omniglot, "read_archive", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(load("omniglot", "train", small).items, first.items)


def test_a_changed_archive_is_read_again(small, monkeypatch):
    load("omniglot", "test", small)
    write_archive(small / "images_evaluation.zip", {"Angelic": 3, "Oriya": 1})
    assert load("omniglot", "test", small).class_groups == ("Angelic",) * 3 + ("Oriya",)


def rewrite(path, change):
    """Writes an archive again with `change(name, content)`; None leaves the file out."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if (content := change(name, content)) is not None:
                archive.writestr(name, content)


def test_an_archive_that_is_none_is_named(small):
    path = small / "images_evaluation.zip"
    content = path.read_bytes()
    middle = content.index(b"\x89PNG") + 60
    for damaged in (
        b"no archive",
        b"",
        content[: len(content) // 2],
        content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images_evaluation\.zip"):
            load("omniglot", "train", small)


def test_a_missing_drawing_names_its_character(small):
    rewrite(
        small / "images_background.zip",
        lambda name, content: None if name.endswith("Latin/character02/0001_07.png") else content,
    )
    with pytest.raises(UserError, match=r"20 drawings of Latin/character02 .* found 19"):
        load("omniglot", "train", small)


def test_a_missing_character_is_counted(small):
    rewrite(
        small / "images_background.zip",
        lambda name, content: None if "Latin/character02" in name else content,
    )
    with pytest.raises(UserError, match=r"8 characters .* found 7"):
        load("omniglot", "train", small)


def test_a_damaged_drawing_is_named(small):
    rewrite(
        small / "images_background.zip",
        lambda name, content: b"x" if "Latin/character02/0001_07" in name else content,
    )
    with pytest.raises(UserError, match=r"Latin/character02/0001_07\.png"):
        load("omniglot", "train", small)


def test_without_a_network_the_message_names_the_alternative(small, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--data-dir .* glyphs") as caught:
        load("omniglot", "train", tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_archives_that_are_nowhere_are_downloaded(small, tmp_path, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=small))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(omniglot_archives, "SOURCE", f"http://127.0.0.1:{server.server_port}")
    try:
        assert len(load("omniglot", "train").class_names) == 5
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    kept = tmp_path / "keras" / "datasets" / "omniglot"
    assert sorted(path.name for path in kept.iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
    ]
    assert len(load("omniglot", "train").class_names) == 5  # the server is gone


@pytest.fixture(scope="module")
def real(real_data):
    real_data("omniglot/images_background.zip")
    return real_data("omniglot/images_evaluation.zip").parent.parent


@pytest.mark.parametrize(
    ("name", "sizes"), [("omniglot", (868, 96, 659)), ("omniglot-random", (1100, 100, 423))]
)
def test_the_real_splits(real, name, sizes):
    splits = [load(name, split, real) for split in SPLITS]
    assert tuple(len(data.class_names) for data in splits) == sizes
    names = [class_name for data in splits for class_name in data.class_names]
    assert len(set(names)) == 1623
    for data in splits:
        assert list(data.class_names) == sorted(data.class_names)
        assert (np.bincount(data.labels) == 20).all()
        assert data.items.shape[1:] == (28, 28, 1)
        assert 10 < data.items.mean() < 40
    if name == "omniglot":
        groups = [set(data.class_groups) for data in splits]
        assert [len(some) for some in groups] == [26, 4, 20]
        assert len(set.union(*groups)) == 50


def test_the_random_split_is_the_same_everywhere(real):
    names = load("omniglot-random", "test", real).class_names
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest[:16] == "7b70066da23e0006"
