"""Downloads, from a server on this machine: what arrives whole has its name, or nothing stays."""
import concurrent.futures
import http.server
import io
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile

import pytest

from data import prepare
from onecoach import corpora
from onecoach.corpora import CORPORA, DOMAINS, Corpus, resolve
from runs import refusal

TEXT = "the cat sees the dog.\n" * 300


def zipped(files, link=False):
    """A zip of {name: text}; link: its members are links."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            z.writestr(info, text)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    """pages: path -> bytes, (bytes, Content-Length to claim), address to go to, or error code.

    asked: [(path, Authorization)].
    """
    pages = {}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            page = pages.get(self.path, 404)
            if isinstance(page, int):
                return self.send_error(page)
            if isinstance(page, str):
                self.send_response(302)
                self.send_header("Location", page)
                return self.end_headers()
            content, length = page if isinstance(page, tuple) else (page, len(page))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{httpd.server_port}/"
    for name, known in CORPORA.items():  # the table's own layout, on this server
        here = known._replace(addresses=[base + path_of(a) for a in known.addresses])
        monkeypatch.setitem(CORPORA, name, here)
    yield type("Server", (), dict(base=base, pages=pages, asked=asked))
    httpd.shutdown()


def path_of(address):
    return address.split("/", 3)[3]


def refused(corpus, folder, *words):
    """With one line that has all these words; and no file is left."""
    with refusal(*words):
        resolve(corpus, folder)
    assert not [p for p in pathlib.Path(folder).rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", list(CORPORA))
def test_every_known_corpus_in_its_own_layout(server, tmp_path, name):
    addresses = CORPORA[name].addresses
    if "2026" in name:
        server.pages |= {"/" + path_of(a): TEXT.encode() for a in addresses}
    else:
        ending = {"babylm_dev": "dev", "babylm_test": "test"}.get(name, "train")
        inside = {f"train_10M/{d}.{ending}": TEXT for d in DOMAINS}
        inside |= {"__MACOSX/._childes.train": "x", "README.md": "x"}
        server.pages["/" + path_of(addresses[0])] = zipped(inside)
    files = resolve(name, tmp_path)
    assert [domain for domain, _ in files] == sorted(DOMAINS)
    assert all(path.read_text() == TEXT for _, path in files)

    asked = len(server.asked)
    assert resolve(name, tmp_path) == files
    assert len(server.asked) == asked  # not fetched again


def test_a_named_corpus_from_download_to_tokens(server, make_config):
    server.pages["/download/y7djq"] = zipped({f"train_10M/{d}.train": TEXT for d in DOMAINS})
    server.pages["/download/uyd7v"] = zipped({f"dev/{d}.dev": TEXT[:220] for d in DOMAINS})
    p = prepare(make_config(corpus="babylm_10m", vocab_size=270))
    assert p.train.words == 6 * 300 * 5 and p.dev.words == 6 * 10 * 5


def test_addresses(server, tmp_path):
    server.pages["/my.txt"] = TEXT.encode()
    server.pages["/raw?x=1"] = TEXT.encode()
    server.pages["/my.zip"] = zipped({"a/childes.train": TEXT})
    assert resolve(server.base + "my.txt", tmp_path)[0][0] == "my"
    assert resolve(server.base + "raw?x=1", tmp_path)[0][0] == "raw"
    assert resolve(server.base + "my.zip", tmp_path)[0][0] == "childes"


def test_what_does_not_arrive_whole(server, tmp_path):
    whole = zipped({"a/childes.train": TEXT})
    bad = whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    for name, page, *words in (
            ("broken.txt", (TEXT.encode()[:100], 5000), "100 of 5000 bytes", "--corpus=PATH"),
            ("page.txt", b"\n<!DOCTYPE html><html>sign in", "a page of HTML", "--corpus=PATH"),
            ("empty.txt", b"", "gave nothing"),
            ("none.txt", 404, "could not be fetched", "Not Found", "--corpus=PATH"),
            ("cut.zip", whole[:-30], "not a whole zip"), ("bad.zip", bad, "not a whole zip"),
            ("link.zip", zipped({"a.train": "/etc/passwd"}, link=True), "would leave its folder"),
            ("none.zip", zipped({"a.exe": "x"}), "holds no text file"),
            ("twice.zip", zipped({"a/1.txt": TEXT, "b/1.txt": TEXT}), "in several folders")):
        server.pages["/" + name] = page
        refused(server.base + name, tmp_path, *words)
    for page in (whole[:-30], TEXT.encode()):
        server.pages["/download/y7djq"] = page
        refused("babylm_10m", tmp_path, "not a whole zip")


def test_too_large_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "babylm_10m", Corpus([server.base + "download/y7djq"], 1, ""))
    server.pages["/download/y7djq"] = zipped({"a/childes.train": "a" * (2 << 20)})
    refused("babylm_10m", tmp_path, "unpacks to more than 1 MB")
    server.pages["/download/y7djq"] = os.urandom(2 << 20)
    refused("babylm_10m", tmp_path, "larger than the 1 MB expected")


@pytest.mark.parametrize("name", ["../evil.train", "/etc/evil.train", "a/../../evil.train",
                                  "..\\evil.train", "C:\\evil.train"])
def test_a_zip_cannot_leave_its_folder(server, tmp_path, name):
    server.pages["/evil.zip"] = zipped({name: TEXT})
    refused(server.base + "evil.zip", tmp_path / "in", "would leave its folder")
    assert not list(tmp_path.rglob("evil*"))


def test_the_token_goes_to_hugging_face_alone(server, tmp_path, monkeypatch):
    """It goes along within the host, and not on to another, nor back from there."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    elsewhere = server.base.replace("127.0.0.1", "localhost")
    server.pages["/my.txt"] = TEXT.encode()
    server.pages["/moved/my.txt"] = "/my.txt"
    server.pages["/twice/my.txt"] = server.base + "moved/my.txt"
    server.pages["/away/my.txt"] = elsewhere + "my.txt"
    server.pages["/back/my.txt"] = elsewhere + "moved/my.txt"
    server.pages["/there/my.txt"] = elsewhere + "home/my.txt"
    server.pages["/home/my.txt"] = server.base + "my.txt"

    def asked(path):
        del server.asked[:]
        resolve(server.base + path, tempfile.mkdtemp(dir=tmp_path))
        return [token for _, token in server.asked]

    assert asked("my.txt") == [None]  # this is not Hugging Face
    monkeypatch.setattr(corpora, "HF", server.base)
    for path, to_us, to_others in (("my", 1, 0), ("moved/my", 2, 0), ("twice/my", 3, 0),
                                   ("away/my", 1, 1), ("back/my", 1, 2), ("there/my", 1, 2)):
        assert asked(f"{path}.txt") == ["Bearer secret"] * to_us + [None] * to_others, path
    monkeypatch.delenv("HF_TOKEN")
    assert asked("moved/my.txt") == [None] * 2


@pytest.mark.parametrize("code", [401, 403])
def test_what_asks_who_you_are_names_the_token(server, tmp_path, monkeypatch, code):
    server.pages["/my.txt"] = code
    refused(server.base + "my.txt", tmp_path, f"not be fetched ({code}: ", "check the address")
    monkeypatch.setattr(corpora, "HF", server.base)
    refused(server.base + "my.txt", tmp_path, f"could not be fetched ({code}: ", "set HF_TOKEN",
            "--corpus=PATH")


@pytest.mark.parametrize("content,what", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
    (TEXT.encode() + b"caf\xe9\n", "line 301: not UTF-8"),
])
def test_what_is_no_text_does_not_get_its_name(server, tmp_path, content, what):
    """Nor is it there the next time, when the server has mended it."""
    good = TEXT.encode()
    for page in ("my.txt", "download", "my.zip"):
        bad = content
        if page == "my.zip":
            bad = zipped({"a/1.train": TEXT, "a/2.train": content})
            good = zipped({"a/1.train": TEXT, "a/2.train": TEXT})
        server.pages["/" + page] = bad
        refused(server.base + page, tmp_path / page, server.base + page, what)
        server.pages["/" + page] = good
        files = resolve(server.base + page, tmp_path / page)
        assert all(path.read_text() == TEXT for _, path in files)


# ---------------------------------------------------------------- several processes

def test_two_that_fetch_the_same_at_once(server, tmp_path, monkeypatch):
    """Both have fetched it before either is done: one leaves its folder, and both have it."""
    server.pages["/my.txt"] = TEXT.encode()
    both_have_it = threading.Barrier(2, timeout=30)
    download = corpora.download

    def download_and_wait(*args):
        download(*args)
        both_have_it.wait()

    monkeypatch.setattr(corpora, "download", download_and_wait)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve, [server.base + "my.txt"] * 2, [tmp_path] * 2)
    assert first == second and first[0][1].read_text() == TEXT
    assert len(list((tmp_path / "raw").iterdir())) == 1


def test_what_is_fetched_is_for_everybody(server, tmp_path):
    """As the umask has it, like any folder; not for its user alone."""
    server.pages["/my.txt"] = TEXT.encode()
    (_, path), = resolve(server.base + "my.txt", tmp_path)
    (tmp_path / "plain").mkdir()
    assert path.parent.stat().st_mode == (tmp_path / "plain").stat().st_mode


DIES = """
import os, pathlib, signal, sys
from onecoach.corpora import building
with building(pathlib.Path(sys.argv[1])) as aside:
    (aside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks on Windows")
def test_what_a_killed_process_has_left_is_removed(tmp_path):
    """And only that: not what another one is building now."""
    root = pathlib.Path(corpora.__file__).parents[1]
    subprocess.run([sys.executable, "-c", DIES, tmp_path / "a"], cwd=root)
    dead, = tmp_path.iterdir()
    assert dead.name.startswith(".preparing-") and (dead / "half").exists()

    with corpora.building(tmp_path / "b") as alive:
        assert not dead.exists()
        (alive / "half").write_text("half")
        with corpora.building(tmp_path / "c"):
            assert (alive / "half").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    assert (tmp_path / "b/half").exists()


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    (tmp_path / ".preparing-0").mkdir()
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with corpora.building(tmp_path / "a") as aside:
        (aside / "whole").write_text("whole")
    with pytest.raises(KeyboardInterrupt), corpora.building(tmp_path / "b"):
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == [".preparing-0", "a"]


def test_an_address_that_is_none_or_does_not_answer(tmp_path):
    for address in ("/my file.txt", ":port/x.txt", ":9/download/y7djq"):
        refused(f"http://127.0.0.1{address}", tmp_path, "could not be fetched", "the network",
                "--corpus=PATH --dev=PATH")
