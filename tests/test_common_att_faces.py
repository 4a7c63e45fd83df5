"""The AT&T faces: made-up archives for what can go wrong, the real one where it is."""

import functools
import threading
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler
from types import SimpleNamespace

from common import att_faces_archive, faces, files
from common.datasets import SPLITS, load
from common.errors import UserError

import cv2
import numpy as np
import pytest
import sklearn.datasets


def photograph(person, number, shape=(112, 92)):
    image = np.full(shape, 5 * person, np.uint8)
    image[: 10 * number] += 20
    return cv2.imencode(".pgm", image)[1].tobytes()


def contents():
    return {f"s{p}/{n}.pgm": photograph(p, n) for p in range(1, 41) for n in range(1, 11)}


def write(path, files_in_it):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files_in_it.items():
            archive.writestr(name, content)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No copy anywhere, and nobody to download it from."""
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("META_LEARNING_DATA", raising=False)
    monkeypatch.setattr(files, "RETRY_PAUSES", (0, 0))
    monkeypatch.setattr(att_faces_archive, "SOURCE", "http://127.0.0.1:9/att_faces.zip")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def archive(nowhere):
    write(nowhere / "att_faces.zip", contents() | {"README": b"text", "__MACOSX/s1/1.pgm": b"x"})
    return nowhere


@pytest.mark.parametrize("fold", range(4))
def test_folds_test_everyone_once_on_people_not_trained_on(archive, fold):
    splits = {split: faces.load("att_faces", split, archive, fold) for split in SPLITS}
    names = {split: set(data.class_names) for split, data in splits.items()}
    assert names["test"] == {f"s{number}" for number in range(10 * fold + 1, 10 * fold + 11)}
    assert [len(names[split]) for split in SPLITS] == [24, 6, 10]
    assert len(set().union(*names.values())) == 40
    for data in splits.values():
        assert data.items.shape == (10 * len(data.class_names), 56, 46, 1)
        for index, name in enumerate(data.class_names):
            person = int(name[1:])
            tenth = data.items[data.labels == index][-1, ..., 0]  # 10.pgm comes last
            assert tenth[10, 10] == 5 * person + 20
            assert tenth[-1, 0] == 5 * person


def test_it_is_found_in_every_place_and_unpacked(archive, tmp_path, monkeypatch):
    expected = load("att_faces", "test", archive)

    def same(data):
        np.testing.assert_array_equal(data.items, expected.items)

    whole = archive / "att_faces.zip"
    with zipfile.ZipFile(whole) as opened:
        opened.extractall(tmp_path / "unpacked")
        opened.extractall(tmp_path / "named" / "faces" / "att_faces")
    same(load("att_faces", "test", tmp_path / "unpacked"))
    same(load("att_faces", "test", tmp_path / "named"))
    (tmp_path / "env" / "faces").mkdir(parents=True)
    whole.rename(tmp_path / "env" / "faces" / "att_faces.zip")
    monkeypatch.setenv("META_LEARNING_DATA", str(tmp_path / "env"))
    same(load("att_faces", "test"))
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    (tmp_path / "env" / "faces" / "att_faces.zip").rename(
        tmp_path / "keras" / "datasets" / "att_faces.zip"
    )
    same(load("att_faces", "test"))


def test_a_changed_photograph_is_read_again(archive, tmp_path):
    with zipfile.ZipFile(archive / "att_faces.zip") as opened:
        opened.extractall(tmp_path / "own")
    before = load("att_faces", "test", tmp_path / "own").items[0].copy()
    (tmp_path / "own" / "s1" / "1.pgm").write_bytes(photograph(9, 9))
    assert (load("att_faces", "test", tmp_path / "own").items[0] != before).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [f.pop(f"s7/{n}.pgm") for n in range(1, 11)], r"40 people .* s7/1\.pgm is miss"),
        (lambda f: f.pop("s7/10.pgm"), r"10 pictures each .* s7/10\.pgm is missing"),
        (lambda f: f.update({"s7/3.pgm": b"no image"}), r"image in .*s7/3\.pgm"),
        (lambda f: f.update({"s7/3.pgm": b""}), r"image in .*s7/3\.pgm"),
        (lambda f: f.update({"s7/3.pgm": photograph(7, 3)[:5000]}), r"s7/3\.pgm"),
        (lambda f: f.update({"s7/3.pgm": photograph(7, 3, (92, 112))}), r"92 x 112 .* 112 x 92"),
        (lambda f: f.clear(), r"s1/1\.pgm is missing"),
    ],
)
def test_what_is_missing_or_damaged_is_named(nowhere, change, message):
    found = contents()
    change(found)
    write(nowhere / "att_faces.zip", found)
    with pytest.raises(UserError, match=message) as caught:
        load("att_faces", "train", nowhere)
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_is_named(archive):
    content = (archive / "att_faces.zip").read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2]):
        (archive / "att_faces.zip").write_bytes(damaged)
        with pytest.raises(UserError, match=r"att_faces\.zip.* faces"):
            load("att_faces", "train", archive)


def test_without_a_network_the_message_says_what_to_do(nowhere):
    with pytest.raises(UserError, match=r"--data-dir .*faces.* olivetti") as caught:
        load("att_faces", "train", nowhere)
    assert "\n" not in str(caught.value)


@pytest.fixture
def server(tmp_path, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    (tmp_path / "site").mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(
            att_faces_archive, "SOURCE", f"http://127.0.0.1:{server.server_port}/att_faces.zip"
        )
        yield tmp_path / "site"
        server.shutdown()
        thread.join()


def test_it_is_downloaded_once(nowhere, server, tmp_path):
    write(server / "att_faces.zip", contents())
    assert len(load("att_faces", "train").class_names) == 24
    (server / "att_faces.zip").unlink()
    assert len(load("att_faces", "test").class_names) == 10
    assert (tmp_path / "keras" / "datasets" / "faces" / "att_faces.zip").is_file()


def test_a_page_in_its_place_is_not_kept(nowhere, server, tmp_path):
    (server / "att_faces.zip").write_bytes(b"<html>This page has moved.</html>")
    with pytest.raises(UserError, match="cannot be read"):
        load("att_faces", "train")
    assert not list((tmp_path / "keras").rglob("*.zip"))


def test_olivetti_are_cut_and_resized(monkeypatch):
    images = np.zeros((400, 64, 64), np.float32)
    labels = np.repeat(np.arange(40), 10)
    images[:] = labels[:, None, None] / 80
    images[:, 32:, :] += 0.5
    images[:, :, :5] = images[:, :, -5:] = 1  # the columns that are cut off
    order = np.random.default_rng(0).permutation(400)
    found = SimpleNamespace(images=images[order], target=labels[order])
    monkeypatch.setattr(sklearn.datasets, "fetch_olivetti_faces", lambda **_: found)
    for fold in range(4):
        data = faces.load("olivetti", "test", fold=fold)
        assert data.class_names == tuple(f"s{n}" for n in range(10 * fold + 1, 10 * fold + 11))
        assert data.items.shape == (100, 56, 46, 1)
        expected = np.round((np.repeat(np.arange(10), 10) + 10 * fold) * 255 / 80)
        np.testing.assert_allclose(data.items[:, 5, 22, 0], expected, atol=1)
        np.testing.assert_allclose(data.items[:, 50, 0, 0], expected + 127.5, atol=1.5)


def test_olivetti_without_a_network(monkeypatch):
    def fail(**_):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(sklearn.datasets, "fetch_olivetti_faces", fail)
    with pytest.raises(UserError, match=r"olivetti .*no route to host at all.* faces") as caught:
        load("olivetti", "train")
    assert "\n" not in str(caught.value)


def test_the_real_photographs(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path))
    folder = real_data("faces/att_faces.zip").parent.parent
    data = load("att_faces", "test", folder)
    assert data.items.shape == (100, 56, 46, 1)
    assert 80 < data.items.mean() < 140
    # A picture is nearest to another of the same person, mostly; the ten folders are people.
    x = data.items.reshape(100, -1).astype(np.float32)
    distances = np.linalg.norm(x[:, None] - x, axis=-1) + 1e9 * np.eye(100)
    assert (data.labels[distances.argmin(1)] == data.labels).mean() > 0.9
