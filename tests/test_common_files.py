"""Files are whole or absent, whatever happens while they are written."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from common import files
from common.errors import UserError
from common.files import atomic_path, cache_directory, cached_arrays, download

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("META_LEARNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_cache_directory_follows_the_environment(monkeypatch):
    monkeypatch.setenv("META_LEARNING_CACHE", "~/chosen")
    assert cache_directory() == Path.home() / "chosen"
    monkeypatch.delenv("META_LEARNING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/meta-learning")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "meta-learning"


def test_atomic_path_writes_in_a_new_folder(tmp_path):
    with atomic_path(tmp_path / "new" / "weights.h5") as temporary:
        assert temporary.suffix == ".h5"
        temporary.write_text("whole")
    assert names(tmp_path / "new") == ["weights.h5"]
    assert (tmp_path / "new" / "weights.h5").read_text() == "whole"


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_atomic_path_keeps_the_old_file_after_an_error(tmp_path, error):
    (tmp_path / "file").write_text("old")

    def fail():
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    def fill():
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"Could not write .*file \(No space left on device\)"):
        fill()
    assert names(tmp_path) == []


def test_cached_arrays_are_built_once_for_each_key(cache):
    def build():
        calls.append(1)
        return {"a": np.arange(5), "names": np.array(["α", "bc"])}

    calls = []
    for key in (1, 1, 2, 1):
        arrays = cached_arrays("data", key, build)
        assert arrays["a"].tolist() == [0, 1, 2, 3, 4]
        assert arrays["names"].tolist() == ["α", "bc"]
    assert len(calls) == len(names(cache)) == 2


def damages():
    yield "empty", lambda data: b""
    yield "cut off", lambda data: data[: len(data) // 2]
    yield "no archive", lambda data: b"not an archive" * 100
    yield "one byte changed", lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


@pytest.mark.parametrize("damage", [pytest.param(f, id=name) for name, f in damages()])
def test_a_damaged_cache_is_built_again(cache, damage):
    expected = {"a": np.arange(1000)}
    cached_arrays("data", 0, lambda: expected)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(
            cached_arrays("data", 0, lambda: expected)["a"], expected["a"]
        )
    assert cached_arrays("data", 0, lambda: pytest.fail("built again"))["a"].shape == (1000,)


def test_a_cache_that_cannot_be_written_is_a_warning(cache, monkeypatch):
    def save(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", save)
    with pytest.warns(UserWarning, match="data is not cached.*No space left"):
        assert cached_arrays("data", 0, lambda: {"a": np.ones(3)})["a"].sum() == 3
    assert names(cache) == []


FULL_DISK = """
import numpy as np, resource
from common import files
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # as if the disk were full after that
print(files.cached_arrays("data", 0, lambda: {"a": np.ones(10_000)})["a"].sum())
"""


def test_a_disk_that_fills_while_writing_is_a_warning(cache):
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout == "10000.0\n"
    assert "data is not cached. Could not write" in process.stderr
    assert "Traceback" not in process.stderr
    assert names(cache) == []


def test_a_cache_folder_that_is_a_file_is_a_warning(cache):
    cache.write_text("in the way")
    with pytest.warns(UserWarning, match="not cached"):
        assert cached_arrays("data", 0, lambda: {"a": np.ones(3)})["a"].sum() == 3


WRITER = """
import sys, numpy as np
from common import files
save = np.savez
def slow(path, **arrays):
    open(path, "wb").write(b"half of it")
    print("writing", flush=True)
    sys.stdin.readline()
    save(path, **arrays)
np.savez = slow
files.cached_arrays("data", 0, lambda: {"a": np.arange(7)})
"""


def start_writer():
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_a_kill_while_writing_leaves_no_bad_cache(cache):
    with start_writer() as writer:
        writer.send_signal(signal.SIGKILL)
    assert not list(cache.glob("data-*"))
    assert cached_arrays("data", 0, lambda: {"a": np.arange(7)})["a"].sum() == 21


def test_two_processes_write_the_same_cache(cache):
    with start_writer() as first, start_writer() as second:
        for writer in (first, second):
            writer.stdin.write("go on\n")
            writer.stdin.close()
            assert writer.wait() == 0
    assert len(names(cache)) == 1
    assert cached_arrays("data", 0, lambda: pytest.fail("built again"))["a"].sum() == 21


@pytest.fixture
def server(monkeypatch):
    """A local server; `server.answers` are given in turn, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests += 1
            status, body, length = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.requests = [], 0
    answers = server.answers
    server.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    monkeypatch.setattr(files, "RETRY_PAUSES", (0, 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


GOOD = (200, CONTENT, len(CONTENT))
CUT_OFF = (200, CONTENT[:1000], len(CONTENT))
WRONG = (200, CONTENT[::-1], len(CONTENT))
BUSY = (503, b"", 0)


@pytest.mark.parametrize("answers", [[GOOD], [BUSY, GOOD], [CUT_OFF, WRONG, GOOD]])
def test_download_succeeds_in_three_attempts(server, tmp_path, answers):
    server.answers += answers
    path = download(server.url, tmp_path / "new" / "data.zip", MD5)
    assert path.read_bytes() == CONTENT
    assert server.requests == len(answers)
    assert names(tmp_path / "new") == ["data.zip"]


@pytest.mark.parametrize(
    ("answer", "reason"), [(BUSY, "503"), (CUT_OFF, "1000 out of"), (WRONG, "hash does not match")]
)
def test_download_fails_after_three_attempts(server, tmp_path, answer, reason):
    server.answers.append(answer)
    with pytest.raises(UserError, match=reason) as caught:
        download(server.url, tmp_path / "data.zip", MD5, advice="Take something else.")
    assert server.url in str(caught.value)
    assert str(caught.value).endswith("Take something else.")
    assert "\n" not in str(caught.value)
    assert server.requests == 3
    assert names(tmp_path) == []


def test_download_without_a_network(server, tmp_path):
    server.server_close()  # nothing listens any more
    with pytest.raises(UserError, match="refused"):
        download(server.url, tmp_path / "data.zip", MD5)
    assert names(tmp_path) == []


def test_download_gives_up_on_a_silent_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "STALLED_AFTER", 0.2)
    monkeypatch.setattr(files, "RETRY_PAUSES", ())
    release = threading.Event()
    monkeypatch.setattr(server, "finish_request", lambda *_: release.wait(30))
    with pytest.raises(UserError, match="timed out"):
        download(server.url, tmp_path / "data.zip", MD5)
    release.set()


def test_download_to_a_folder_that_cannot_be(server, tmp_path):
    server.answers.append(GOOD)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data\.zip"):
        download(server.url, tmp_path / "file" / "data.zip", MD5)


def test_download_of_a_real_archive(server, tmp_path, real_data):
    content = real_data("omniglot/images_background_small1.zip").read_bytes()
    server.answers.append((200, content, len(content)))
    path = download(server.url, tmp_path / "a.zip", "e704a628b5459e08445c13499850abc4")
    assert os.path.getsize(path) == len(content)
