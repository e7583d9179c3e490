"""Download of a part of an EMPIAR entry, from a local server that responds correctly or with one of several faults."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mrcfile
import numpy as np
import pandas as pd
import pytest

from hetacumn.common.errors import HetacumnError
from hetacumn.io import empiar, star
from hetacumn.io.empiar import Entry, Subset, download_subset
from hetacumn.io.remote import Patience, Remote, TemporaryFailure
from hetacumn.io.stacks import open_stack
from hetacumn.particles.reader import read_particles

BOX = 16
ENTRY = Entry(1, "data/all.star", "data")
QUICK = Patience(timeout=0.5, tries=3, pause=0.01)
COUNTS = {"stacks/a.mrcs": 12, "stacks/b c.mrcs": 9}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return an archive with entry 1: two stacks, one with an extended header, and a RELION 3.1 STAR file."""
    folder = tmp_path_factory.mktemp("archive") / "1" / "data"
    random = np.random.default_rng(0)
    for i, (name, count) in enumerate(COUNTS.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(folder / name, overwrite=True) as mrc:
            mrc.set_data(random.normal(size=(count, BOX, BOX)).astype(np.float32))
            mrc.set_image_stack()
            mrc.voxel_size = 2.0
            if i:
                mrc.set_extended_header(np.zeros(320, dtype=np.uint8).view("V320"))
    names = [f"{k + 1}@{name}" for name, count in COUNTS.items() for k in range(count)]
    particles = pd.DataFrame({"rlnImageName": names, "rlnOpticsGroup": 1})
    particles["rlnDefocusU"] = particles["rlnDefocusV"] = 10_000.0 + np.arange(len(names))
    particles["rlnDefocusAngle"] = 0.0
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnImagePixelSize": 2.0,
            "rlnVoltage": 300.0,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnImageSize": BOX,
        }
    )
    star.write_table(folder / "all.star", particles, optics)
    return folder.parent.parent


class Server:
    """HTTP server of a folder with range requests; ``trouble(path, first) -> str | None`` names the fault of a response."""

    def __init__(self, folder):
        self.requests, self.trouble = [], lambda path, first: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                path = folder / self.path.lstrip("/").replace("%20", " ")
                sent = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = int(sent[1]), int(sent[2])
                outer.requests.append((str(path.relative_to(folder)), first, last))
                trouble = outer.trouble(path.name, first)
                if trouble == "status 503" or not path.is_file():
                    self.send_error(503 if path.is_file() else 404)
                    return
                content = path.read_bytes()
                total, piece = len(content), content[first : last + 1]
                if trouble == "ignores range":
                    self.send_response(200)
                    piece = content
                else:
                    self.send_response(206)
                    at = 0 if trouble == "other range" else first
                    self.send_header("Content-Range", f"bytes {at}-{at + len(piece) - 1}/{total}")
                self.send_header("Content-Length", str(len(piece)))
                self.end_headers()
                if trouble in ("dies", "stalls"):
                    self.wfile.write(piece[: len(piece) // 2])
                    self.wfile.flush()
                    if trouble == "stalls":
                        time.sleep(1.5)
                    self.close_connection = True
                    return
                self.wfile.write(piece)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(archive):
    served = Server(archive)
    yield served
    served.server.shutdown()
    served.server.server_close()


def get(server, out, count=8, **more):
    return download_subset(ENTRY, out, Subset(count, **more), base_url=server.url, patience=QUICK, progress=False)


def expected_images(archive, names):
    parts = [name.split("@") for name in names]
    return np.stack([open_stack(archive / "1/data" / stack)[int(number) - 1] for number, stack in parts])


def check(archive, path, count):
    table = star.read_table(path)
    assert len(table) == count
    assert table.particles["rlnImageName"].tolist() == [f"{i + 1:06d}@particles.mrcs" for i in range(count)]
    original = table.particles["rlnImageOriginalName"].tolist()
    assert len(set(original)) == count
    np.testing.assert_array_equal(open_stack(path.parent / "particles.mrcs"), expected_images(archive, original))
    whole = star.read_table(archive / "1/data/all.star").particles.set_index("rlnImageName")
    assert table.particles["rlnDefocusU"].tolist() == whole.loc[original, "rlnDefocusU"].tolist()
    assert {p.name for p in path.parent.iterdir()} == {"particles.star", "particles.mrcs", "download.json"}
    return original


@pytest.mark.parametrize("leading", [True, False])
def test_a_downloaded_subset_equals_the_particles_of_the_archive(server, archive, tmp_path, leading):
    original = check(archive, get(server, tmp_path, 14, leading=leading), 14)
    names = star.read_table(archive / "1/data/all.star").particles["rlnImageName"].tolist()
    assert (original == names[:14]) == leading
    particles = read_particles(tmp_path / "particles.star", contrast="white", progress=False)
    assert particles.pixel_A == pytest.approx(2.0)
    mrcfile.validate(tmp_path / "particles.mrcs")


def test_neighbouring_images_are_read_in_one_request_and_no_others_are_read(server, archive, tmp_path):
    get(server, tmp_path, 15, leading=True)
    size = 4 * BOX * BOX
    images = [request for request in server.requests if request[1] >= 1024]
    assert images == [
        ("1/data/stacks/a.mrcs", 1024, 1024 + 12 * size - 1),
        ("1/data/stacks/b c.mrcs", 1344, 1344 + 3 * size - 1),
    ]
    before = len(server.requests)
    get(server, tmp_path, 15, leading=True)
    assert len(server.requests) == before  # the files exist already


def test_another_seed_gives_another_subset(server, archive, tmp_path):
    subsets = [check(archive, get(server, tmp_path / str(seed), seed=seed), 8) for seed in (0, 1)]
    assert subsets[0] != subsets[1]


@pytest.mark.parametrize("trouble", ["status 503", "dies", "stalls"])
def test_a_temporary_fault_is_retried(server, archive, tmp_path, trouble):
    seen = set()

    def once(path, first):
        if (path, first) in seen:
            return None
        seen.add((path, first))
        return trouble

    server.trouble = once
    check(archive, get(server, tmp_path, 3), 3)


def test_after_half_a_response_only_the_rest_is_requested(server, archive, tmp_path):
    server.trouble = lambda path, first: "dies" if path == "a.mrcs" and first == 1024 else None
    check(archive, get(server, tmp_path, 12, leading=True), 12)
    size = 4 * BOX * BOX
    assert ("1/data/stacks/a.mrcs", 1024 + 6 * size, 1024 + 12 * size - 1) in server.requests


@pytest.mark.parametrize("trouble, message", [
    ("ignores range", r"all.star: the server sends the whole file; expected it to serve ranges \(status 206\)"),
    ("other range", r"all.star.*Content-Range is .*; expected bytes 17-33"),
    ("status 503", r"status 503; tried 3 times; run it again later; downloaded data are kept"),
    ("dies at once", r"the connection ended too soon; tried 3 times"),
])  # fmt: skip
def test_a_permanent_fault_is_reported(server, tmp_path, trouble, message):
    server.trouble = lambda path, first: trouble
    remote = Remote(f"{server.url}/1", QUICK)
    if trouble == "dies at once":
        remote._receive = lambda *arguments: (_ for _ in ()).throw(TemporaryFailure("the connection ended too soon"))
    with pytest.raises(HetacumnError, match=message):
        remote.read("data/all.star", 17, 34)


def test_an_absent_file_is_named(server, tmp_path):
    with pytest.raises(HetacumnError, match=r"/1/data/none.star: status 404; expected 206"):
        download_subset(Entry(1, "data/none.star", "data"), tmp_path, Subset(3), base_url=server.url, patience=QUICK)


def test_an_interrupted_download_continues(server, archive, tmp_path):
    """In the first call the second stack fails permanently; the second call does not request the first stack again."""
    server.trouble = lambda path, first: "status 503" if path == "b c.mrcs" and first > 1024 else None
    with pytest.raises(HetacumnError, match="run it again later"):
        get(server, tmp_path, 20, leading=True)
    assert not (tmp_path / "particles.mrcs").exists() and not (tmp_path / "particles.star").exists()
    with open(tmp_path / "particles.done", "a") as journal:
        journal.write("1")  # a truncated line: image 1, where a number from 10 to 19 was meant
    server.requests.clear()
    server.trouble = lambda path, first: None
    check(archive, get(server, tmp_path, 20, leading=True), 20)
    assert not any(path.endswith("a.mrcs") and first >= 1024 for path, first, _ in server.requests)


def test_a_folder_with_another_download_is_refused_and_left_unchanged(server, archive, tmp_path):
    get(server, tmp_path, 5)
    with pytest.raises(HetacumnError, match="holds another download"):
        get(server, tmp_path, 6)
    check(archive, tmp_path / "particles.star", 5)


@pytest.mark.parametrize("count", [0, 22])
def test_more_particles_than_there_are_cannot_be_had(server, tmp_path, count):
    with pytest.raises(HetacumnError, match=rf"{count} particles requested; expected 1 to 21"):
        get(server, tmp_path, count)


def broken(archive, tmp_path, change):
    """Serve a copy of the archive with one stack changed."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    path = copy / "1/data/stacks/a.mrcs"
    path.write_bytes(change(path.read_bytes()))
    return Server(copy)


@pytest.mark.parametrize("change, message", [
    (lambda raw: raw[:-100], r"a.mrcs: \d+ bytes long; expected \d+, 12 images as its header says"),
    (lambda raw: raw[:500], r"a.mrcs: 500 bytes long; expected at least 1024"),
    (lambda raw: b"\x7f" * 1024 + raw[1024:], r"a.mrcs: not an MRC stack"),
    (lambda raw: np.int32([8]).tobytes() + raw[4:], r"images \(16, 16\) .*; expected \(16, 8\)"),
    (lambda raw: raw[:8] + np.int32([5]).tobytes() + raw[12:], r"row 6 names image 6 of .*a.mrcs, which holds 5"),
])  # fmt: skip
def test_a_broken_stack_is_refused_before_its_images_are_read(archive, tmp_path, change, message):
    server = broken(archive, tmp_path, change)
    with pytest.raises(HetacumnError, match=message):
        get(server, tmp_path / "out", 21)
    assert not (tmp_path / "out/particles.mrcs.part").exists()
    server.server.shutdown()


def test_the_known_entries_have_a_star_file():
    assert set(empiar.ENTRIES) == {10180, 10076, 10028}
    assert all(entry.number == number and entry.star.endswith(".star") for number, entry in empiar.ENTRIES.items())
    json.dumps([vars(entry) for entry in empiar.ENTRIES.values()])
