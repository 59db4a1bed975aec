"""Downloads, from a server on this machine: what arrives whole has its name, or nothing stays."""
import http.server
import io
import os
import pathlib
import stat
import threading
import zipfile

import pytest

import corpora
from config import UserError
from corpora import CORPORA, DOMAINS, Corpus, resolve
from data import prepare

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
    """pages: path -> bytes, or (bytes, Content-Length to claim); asked: [(path, Authorization)]."""
    pages = {}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            page = pages.get(self.path)
            if page is None:
                return self.send_error(404)
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
    with pytest.raises(UserError) as e:
        resolve(corpus, folder)
    message = str(e.value)
    assert "\n" not in message and all(word in message for word in words), message
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
    page = server.pages
    page["/broken.txt"] = (TEXT.encode()[:100], 5000)
    refused(server.base + "broken.txt", tmp_path, "100 of 5000 bytes", "--corpus=PATH")
    page["/page.txt"] = b"\n<!DOCTYPE html><html>sign in</html>"
    refused(server.base + "page.txt", tmp_path, "a page of HTML", "--corpus=PATH")
    page["/empty.txt"] = b""
    refused(server.base + "empty.txt", tmp_path, "gave nothing")
    refused(server.base + "none.txt", tmp_path, "could not be fetched", "Not Found",
            "--corpus=PATH")
    page["/cut.zip"] = whole[:-30]
    refused(server.base + "cut.zip", tmp_path, "not a whole zip")
    bad = bytearray(whole)
    bad[60] ^= 255
    page["/bad.zip"] = bytes(bad)
    refused(server.base + "bad.zip", tmp_path, "not a whole zip")
    page["/download/y7djq"] = whole[:-30]
    refused("babylm_10m", tmp_path, "not a whole zip")
    page["/download/y7djq"] = TEXT.encode()
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


def test_links_and_zips_without_text(server, tmp_path):
    server.pages["/link.zip"] = zipped({"a.train": "/etc/passwd"}, link=True)
    refused(server.base + "link.zip", tmp_path, "would leave its folder")
    server.pages["/none.zip"] = zipped({"a.exe": "x"})
    refused(server.base + "none.zip", tmp_path, "holds no text file")


def test_no_network_says_how_to_pass_a_path(tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "babylm_10m", Corpus(["http://127.0.0.1:9/download/y7djq"], 1, ""))
    refused("babylm_10m", tmp_path, "could not be fetched", "is there a network?",
            "--corpus=PATH --dev=PATH")


def test_the_token_goes_to_hugging_face_alone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.pages["/my.txt"] = TEXT.encode()
    resolve(server.base + "my.txt", tmp_path)
    assert server.asked[-1][1] is None
    seen = []

    def urlopen(request, timeout):
        seen.append(request)
        raise OSError("x")

    monkeypatch.setattr(corpora.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError):
        resolve("https://huggingface.co/a.txt", tmp_path)
    assert seen[0].unredirected_hdrs["Authorization"] == "Bearer secret"
    assert "Authorization" not in seen[0].headers


def test_any_damaged_zip_is_one_line(server, tmp_path):
    """One byte changed, everywhere: refused, or unpacked as it was packed, or named otherwise."""
    whole = zipped({"a/childes.train": TEXT})
    refusals = 0
    for i in range(0, len(whole), 7):
        server.pages[f"/{i}.zip"] = whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1:]
        try:
            resolve(f"{server.base}{i}.zip", tmp_path / str(i))
        except UserError as e:
            refusals += "\n" not in str(e)
    assert refusals > len(whole) / 7 / 2


def test_two_files_of_one_name_are_not_one(server, tmp_path):
    server.pages["/twice.zip"] = zipped({"a/1.txt": TEXT, "b/1.txt": TEXT})
    refused(server.base + "twice.zip", tmp_path, "'1.txt' in several folders")


def test_an_address_that_is_none(tmp_path):
    for address in ("http://127.0.0.1:9/my file.txt", "http://127.0.0.1:port/x.txt"):
        refused(address, tmp_path, "could not be fetched")
