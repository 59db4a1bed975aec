"""Every link in README and docs/*.md leads to a file and heading that are there."""
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def prose(path):
    """Return a document's text without its fenced code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(path):
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for address in filter(None, sum(LINK.findall(prose(document)), ())):
        if not address.startswith(("http:", "https:")):
            name, _, anchor = address.partition("#")
            path = (document.parent / name).resolve() if name else document
            assert path.exists(), address
            assert not anchor or anchor in anchors(path), address


def test_documents_are_short():
    sizes = {path.stem: path.stat().st_size for path in DOCUMENTS}
    assert sizes["results"] <= 10_000 and sizes["speed"] <= 8_000
    assert sum(sizes[name] for name in ("babylm", "course", "huggingface", "paper", "results",
                                        "running", "speed")) <= 45_000


def test_the_demos_page_asks_no_server_and_its_pictures_are_small():
    page = (ROOT / "docs/demo.html").read_text(encoding="utf-8")
    asks = r'(?:src|href)="(?!#|data:)|url\((?!#|data:)|@import|fetch\(|XMLHttpRequest|WebSocket'
    assert "mode browser" in page and not re.search(asks, page)
    sizes = [(ROOT / f"docs/demo_{scheme}.png").stat().st_size for scheme in ("light", "dark")]
    assert sum(sizes) < 300_000


def test_a_missing_anchor_is_found():
    assert "does-a-coach-pay" in anchors(ROOT / "docs/results.md")
    assert "the-fast-path-changes-no-result" in anchors(ROOT / "docs/speed.md")
    assert "no-such-heading" not in anchors(ROOT / "docs/results.md")
