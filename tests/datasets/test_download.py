"""Downloads from a server on this machine that breaks off, lies, or lacks the file."""

import contextlib
import gzip
import hashlib
import http.server
import os
import re
import socket
import threading
import time

import numpy as np
import pytest

from bitnet.datasets import DataError, download, load_digits, svhn
from bitnet.datasets.download import fetch_svhn

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `breaks` holds after how many bytes of the body each coming answer breaks off."""

    def __init__(self, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.statuses, self.ranges, self.seen = {}, [], [], ranges, []
        self.send = None  # what answers in the place of do_GET
        self.url = f"http://127.0.0.1:{self.server_port}/mirror/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.seen.append((self.path, wanted))
        if server.send:
            return server.send(self)
        if server.statuses and (status := server.statuses.pop(0)):
            return self.send_error(status)
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        start = int(re.match(r"bytes=(\d+)-$", wanted)[1]) if wanted and server.ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + server.breaks.pop(0) if server.breaks else len(body)
        self.wfile.write(body[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(download, "_WAITS", (0, 0, 0))
    monkeypatch.setitem(svhn.OFFICIAL, "train", (hashlib.md5(CONTENT).hexdigest(), 30, len(CONTENT)))
    servers = []

    def start(**options):
        server = Server(**options)
        server.files["/mirror/train_32x32.mat"] = CONTENT
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_fetched_whole(tmp_path, serve, capfd):
    server, folder = serve(), tmp_path / "new" / "svhn"
    message = fetch_svhn(folder, "train", server.url)
    assert (folder / "train_32x32.mat").read_bytes() == CONTENT and names(folder) == ["train_32x32.mat"]
    assert message == f"train_32x32.mat: fetched from {server.url}train_32x32.mat, 300,000 bytes, md5 as expected"
    assert server.seen == [("/mirror/train_32x32.mat", None)]
    assert "Downloading" not in capfd.readouterr().err


def test_interrupted_then_resumed_in_the_same_run(tmp_path, serve):
    server = serve()
    server.breaks = [150_000, 50_000]
    fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == CONTENT
    # only the rest is asked for
    first, second, third = (int(wanted[6:-1]) if wanted else 0 for _, wanted in server.seen)
    assert first == 0 and 100_000 < second <= 150_000 and second < third <= 200_000


def test_interrupted_then_resumed_in_a_later_run(tmp_path, serve):
    server = serve()
    server.breaks = [150_000, 0, 0, 0]
    with pytest.raises(DataError, match=r"after 4 tries: .*1[0-9]{2},[0-9]{3} bytes are kept in train_32x32.mat.part"):
        fetch_svhn(tmp_path, "train", server.url)
    assert names(tmp_path) == ["train_32x32.mat.part"]
    have = (tmp_path / "train_32x32.mat.part").stat().st_size
    server.seen.clear()
    fetch_svhn(tmp_path, "train", server.url)
    assert server.seen == [("/mirror/train_32x32.mat", f"bytes={have}-")] and 100_000 < have <= 150_000
    assert (tmp_path / "train_32x32.mat").read_bytes() == CONTENT and names(tmp_path) == ["train_32x32.mat"]


def test_a_whole_part_only_needs_its_name(tmp_path, serve):
    server = serve()
    (tmp_path / "train_32x32.mat.part").write_bytes(CONTENT)
    fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == CONTENT and len(server.seen) == 1


@pytest.mark.parametrize("left", [b"of another file", CONTENT + b"too long"])
def test_a_part_of_another_file_is_dropped(tmp_path, serve, left):
    server = serve()
    (tmp_path / "train_32x32.mat.part").write_bytes(left)
    fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == CONTENT and names(tmp_path) == ["train_32x32.mat"]


def test_a_server_without_ranges_starts_over(tmp_path, serve):
    server = serve(ranges=False)
    server.breaks = [150_000]
    fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == CONTENT
    assert len(server.seen) == 2 and server.seen[1][1].startswith("bytes=1")


def test_a_busy_server_is_asked_again(tmp_path, serve):
    server = serve()
    server.statuses = [503, 500]
    fetch_svhn(tmp_path, "train", server.url)
    assert len(server.seen) == 3


def test_corrupted_is_removed_and_reported(tmp_path, serve):
    server = serve()
    server.files["/mirror/train_32x32.mat"] = wrong = CONTENT[:-1] + b"x"
    expected, found = hashlib.md5(CONTENT).hexdigest(), hashlib.md5(wrong).hexdigest()
    with pytest.raises(DataError, match=f"expected content with md5 {expected}, found {found}; what was fetched is"):
        fetch_svhn(tmp_path, "train", server.url)
    assert names(tmp_path) == [] and len(server.seen) == 1


def test_missing_is_reported_at_once(tmp_path, serve):
    server = serve()
    server.files.clear()
    with pytest.raises(DataError, match=r"train_32x32.mat: expected a file, found HTTP 404 Not Found"):
        fetch_svhn(tmp_path, "train", server.url)
    assert names(tmp_path) == [] and len(server.seen) == 1


def test_unreachable_is_reported(tmp_path, serve):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DataError, match=r"expected a server that answers, found after \d tries"):
            fetch_svhn(tmp_path, "train", url)
    with pytest.raises(DataError, match="expected an address to fetch from"):
        fetch_svhn(tmp_path, "train", "nowhere")


def test_an_unwritable_folder_is_reported(tmp_path, serve):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"expected a folder to write train_32x32.mat into"):
        fetch_svhn(tmp_path / "file" / "below", "train", serve().url)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(CONTENT)
    except OSError:  # the client has had enough
        pass


def packed(handler):
    body = gzip.compress(bytes(200_000_000), 1)  # in 0.9 MB
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)


@pytest.mark.parametrize("send", [endless, packed])
def test_a_server_may_send_as_many_bytes_as_the_file_has(tmp_path, serve, send):
    server = serve()
    server.send = send
    with pytest.raises(DataError, match="expected 300,000 bytes, found more; what was fetched is removed"):
        fetch_svhn(tmp_path, "train", server.url)
    assert names(tmp_path) == [] and len(server.seen) == 1


def test_a_packed_answer_is_taken_as_it_is(tmp_path, serve, monkeypatch):
    # a server that calls the .gz of a mirror an encoding sends the right bytes all the same
    body = gzip.compress(CONTENT)
    monkeypatch.setitem(svhn.OFFICIAL, "train", (hashlib.md5(body).hexdigest(), 30, len(body)))
    server = serve()

    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(body)

    server.send = send
    fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == body


def test_a_drip_is_broken_off(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(download, "_STALLED", 0.2)
    server = serve()

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(200):
                handler.wfile.write(b"x")
                time.sleep(0.05)

    server.send = drip
    start = time.monotonic()
    with pytest.raises(DataError, match=r"after 4 tries: \d+ bytes in 0.2 seconds"):
        fetch_svhn(tmp_path, "train", server.url)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("make, found", [
    (lambda part, own: part.symlink_to(own), "a link"), (lambda part, own: os.mkfifo(part), "no regular file"),
    (lambda part, own: part.mkdir(), "a folder"),
])  # fmt: skip
def test_a_part_that_leads_elsewhere_is_not_written_to(tmp_path, serve, make, found):
    own, folder = tmp_path / "own", tmp_path / "data"
    own.write_bytes(b"the user's own")
    folder.mkdir()
    make(folder / "train_32x32.mat.part", own)
    with pytest.raises(DataError, match=f"part: expected a file of an earlier try or nothing, found .*{found}"):
        fetch_svhn(folder, "train", serve().url)
    assert own.read_bytes() == b"the user's own"


def test_what_exists_is_never_replaced(tmp_path, serve):
    server = serve()
    (tmp_path / "train_32x32.mat").write_bytes(b"the user's own")
    assert "exists, not fetched" in fetch_svhn(tmp_path, "train", server.url)
    assert (tmp_path / "train_32x32.mat").read_bytes() == b"the user's own" and not server.seen


def test_address(monkeypatch):
    assert download.base_url() == "http://ufldl.stanford.edu/housenumbers/"
    monkeypatch.setenv("BITNET_SVHN_URL", "http://mirror/x")
    assert download.base_url() == "http://mirror/x/"
    assert download.base_url("http://mine/") == "http://mine/"


def test_load_digits_fetches_what_is_missing(tmp_path, serve, monkeypatch, write_mat):
    server, origin = serve(), tmp_path / "origin"
    for seed, split in enumerate(("train", "test", "extra")):
        write_mat(origin, split, count=10 * (seed + 1), seed=seed)
        body = (origin / f"{split}_32x32.mat").read_bytes()
        server.files[f"/mirror/{split}_32x32.mat"] = body
        monkeypatch.setitem(svhn.OFFICIAL, split, (hashlib.md5(body).hexdigest(), 10 * (seed + 1), len(body)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITNET_SVHN_URL", server.url)
    train, test, messages = load_digits(download=True)
    assert (len(train), len(test)) == (10, 20) and train.name == "SVHN train"
    assert names(tmp_path / "data" / "svhn") == ["test_32x32.mat", "train_32x32.mat"]
    assert sum("md5 as expected" in message for message in messages) == 2
    server.seen.clear()
    train, _, _ = load_digits(extra=True, download=True)
    assert [path for path, _ in server.seen] == ["/mirror/extra_32x32.mat"] and len(train) == 40
    server.seen.clear()
    load_digits(), load_digits(download=True)
    assert not server.seen
