"""Make docs/demo.html, the page of README's own run, and two pictures of its mode browser.

    python docs/demo.py

The demo is trained into out/ if it is not there, some minutes. The pictures need a chromium.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONTEXT = "two pigs carry"
SIZE = 680, 645  # CSS pixels, of two dots each

# changes to a copy of the page: the browser alone, with fewer words and only one colour scheme
ALONE = """<style>
    body > :not(#browser), label:has(#teacher-too), #browser-note { display: none }
    :root { background: var(--panel); color-scheme: SCHEME }
    body { padding: 0 }
    #browser { border: 0; border-radius: 0 }
</style>
"""
WORDS = "const SHOWN = 14;", "const SHOWN = 4;"
FIRST = "if (data.contexts.length) drawBrowser();"
CHOSEN = f'$("context").value = "{CONTEXT}"; {FIRST}'
SCHEME = "@media (prefers-color-scheme: dark)"


def run(*words):
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def replace(text, old, new):
    assert text.count(old) == 1, f"the page has no {old!r}"
    return text.replace(old, new)


def draw(page, scheme, path):
    """Save a picture of the page's mode browser in a colour scheme, light or dark."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))))
    text = replace(page, "</head>", ALONE.replace("SCHEME", scheme) + "</head>")
    text = replace(replace(text, *WORDS), FIRST, CHOSEN)
    text = replace(text, SCHEME, {"light": "@media not all", "dark": "@media all"}[scheme])
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "page.html")
        copy.write_text(text, encoding="utf-8")
        subprocess.run([chromium, "--headless", "--no-sandbox", "--hide-scrollbars",
                        "--force-device-scale-factor=2", f"--window-size={SIZE[0]},{SIZE[1]}",
                        f"--screenshot={path}", copy.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    run("distill.py", "configs/rkl_demo.py")  # says so where it is finished
    run("-m", "tools.report", "out/base_demo", "out/rkl_demo")
    page = (ROOT / "out/rkl_demo/report.html").read_text(encoding="utf-8")
    (DOCS / "demo.html").write_text(page, encoding="utf-8")
    for scheme in ("light", "dark"):
        draw(page, scheme, DOCS / f"demo_{scheme}.png")
