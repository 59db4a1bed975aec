"""tools.report: an offline page with the models' own numbers; driven in Chromium if it is there."""
import contextlib
import html.parser
import json
import pathlib
import re
import shutil
import socket
import subprocess
import time
import types
import urllib.error
import urllib.request

import pytest
import torch

import babytalk
import distill
import eval
from onecoach import files, run
from onecoach.config import CONFIGS, UserError, read_config
from tools import report
from tools.modes import browser as browser_numbers
from tools.modes import charts, examine, page, words, writing

NAMES = ["base_demo", "fkl_demo", "rkl_demo"]


@pytest.fixture(scope="session")
def written(demo_runs):
    """The page of three tiny students."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examine, "LINES", 40)
        patch.setattr(writing, "WRITTEN", 20)
        patch.setattr(browser_numbers, "CONTEXTS", 4)
        return page.write_report([demo_runs / name for name in NAMES])


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S)[1])


class Tags(html.parser.HTMLParser):
    """Do the tags close as they open?"""

    EMPTY = {"meta", "link", "input", "br", "img"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_small_and_asks_nobody(written):
    text = written.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "http:" not in text and "https:" not in text and "<!--DATA" not in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert len(text) < 2e6
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_numbers_in_the_page_are_the_models(written, demo_runs):
    data = data_of(written)
    assert data["models"] == ["teacher llama_demo", *NAMES]
    assert data["colours"] == dict(zip(NAMES, ("alone", "forward", "reverse")))
    assert len(data["contexts"]) == 4
    for name in ("llama_demo", "rkl_demo"):
        model, tokenizer, _ = run.load(demo_runs / name)
        for context in data["contexts"]:
            ids = [tokenizer.bos_id, *tokenizer.encode(context["text"])]
            with torch.no_grad():
                p = model.logits(model(torch.tensor([ids])))[0, -1].softmax(-1)
            key = name if name == "rkl_demo" else f"teacher {name}"
            shown = torch.tensor(context["logits"][key]).div(1000).softmax(-1)
            assert torch.allclose(shown, p, atol=1e-3)
            truth = dict(map(tuple, context["truth"]))
            for word, p_star in babytalk.next_words(context["text"].split()).items():
                assert truth[tokenizer.encode(word)[0]] == pytest.approx(p_star, abs=1e-6)


def test_charts_have_the_runs_figures(written, demo_runs):
    drawn = data_of(written)["charts"]
    assert [chart["title"] for chart in drawn["training"]] == [
        "training loss", "validation CE", "validation KL(q‖p)"]
    log = files.read_metrics(demo_runs / "rkl_demo/metrics.jsonl")
    points = [[line["step"], pytest.approx(line["val_ce"], abs=1e-4)] for line in log
              if "val_ce" in line]
    assert drawn["training"][1]["lines"]["rkl_demo"] == points[1:]  # not of random weights
    curve = files.read_json(demo_runs / "rkl_demo/modes.json")["curves"]["truth"]
    chart = drawn["curves"][1]
    assert chart["title"] == "against the truth" and [*chart["lines"]] == NAMES
    assert chart["lines"]["rkl_demo"] == [pytest.approx(point, abs=1e-4) for point in zip(
        curve["recall"], curve["precision"])]
    assert curve["temperature"][chart["dot"]] == 1


def test_the_page_says_what_was_trained_and_found(written):
    whole = written.read_text()
    for said in ("python distill.py RUN/config.json --resume=no", "averaged or generic output",
                 "<td>rkl_demo</td><td>fkl_demo</td>", "<details><summary>a table of"):
        assert said in whole
    # the contents lead to every heading
    assert re.findall(r'<a href="#(\w[\w-]*)"', whole) == re.findall(r'<h2 id="([\w-]+)"', whole)


def test_the_command_ends_with_its_page(written, monkeypatch, capsys):
    monkeypatch.setattr(page, "write_report", lambda folders: written)
    report.main([str(written.parent)])
    assert capsys.readouterr().out.startswith(f"the page: {written} (0.")


def test_no_two_contexts_are_followed_by_the_same_words(demo_runs):
    tokenizer = run.load(demo_runs / "rkl_demo")[1]
    sequences = [[tokenizer.bos_id, *tokenizer.encode(line)] for line in babytalk.sample(300, 1)]
    student = types.SimpleNamespace(config=types.SimpleNamespace(corpus="babytalk"),
                                    subject=types.SimpleNamespace(tokenizer=tokenizer),
                                    text=types.SimpleNamespace(sequences=sequences))
    contexts = browser_numbers.choose_contexts(student)
    prefixes = [tokenizer.decode(ids[1:]).split() for ids in contexts]
    following = [sorted(babytalk.next_words(words).items()) for words in prefixes]
    assert len(contexts) > 15 and len({*map(str, following)}) == len(contexts)


def test_a_large_vocabulary_keeps_its_bars():
    """The words that are not inlined are a histogram of logits: enough at any temperature."""
    V = 20_000
    torch.manual_seed(0)
    log_p = (3 * torch.randn(V)).log_softmax(-1)
    tokenizer = types.SimpleNamespace(vocab_size=V, bos_id=1, decode=lambda ids: "")
    context = browser_numbers.context_data([1], {"p": lambda x: log_p[None, None]}, tokenizer, None)
    words = context["words"]
    values, counts = torch.tensor(context["tail"]["p"]).T
    assert len(words) == browser_numbers.TOP and counts.sum() == V - len(words)
    for T in (0.25, 1.0, 2.0):
        inlined = torch.tensor(context["logits"]["p"]) / 1000 / T
        total = inlined.exp().sum() + (counts * (values / 1000 / T).exp()).sum()
        assert torch.allclose(inlined.exp() / total, (log_p / T).softmax(-1)[words], atol=1e-3)


@pytest.mark.parametrize("names, labels", [
    (["out/a", "out/b"], ["a", "b"]), (["out/a", "out/2/a"], ["out/a", "out/2/a"])])
def test_runs_of_one_name_are_told_apart_by_their_folders(names, labels):
    folders = [pathlib.Path(name) for name in names]
    assert [examine.short(folder, folders) for folder in folders] == labels


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory):
    """A folder with teacher and student of a few steps on a file of text, as on real text."""
    folder = tmp_path_factory.mktemp("text")
    corpus = folder / "some.txt"
    corpus.write_text("".join(babytalk.sample(1500, 3)))
    keys = dict(out_dir=str(folder), data_dir=str(folder / "data"), corpus=str(corpus), mark="none",
                vocab_size=400, max_steps=4, n_layer=1, n_head=2, d_model=8, d_ff=16, batch_size=4,
                block_size=16, val_every=4, log_every=4, eval_tokens=0, baseline="", device="cpu",
                dtype="float32")
    for name in ("llama_demo", "rkl_demo"):
        distill.train(read_config(CONFIGS / f"{name}.py", [*keys.items()]))
    return folder


def test_real_text_without_a_truth(text_runs, monkeypatch):
    monkeypatch.setattr(writing, "WRITTEN", 10)
    monkeypatch.setattr(browser_numbers, "CONTEXTS", 3)
    monkeypatch.setattr(browser_numbers, "WHOLE", 100)
    monkeypatch.setattr(browser_numbers, "TOP", 20)
    path = page.write_report([text_runs / "rkl_demo"])
    result = files.read_json(text_runs / "rkl_demo/modes.json")
    assert set(result["curves"]) == {"teacher"}
    assert "right" not in result["written"] and result["written"]["mean_length"] > 40
    data = data_of(path)
    assert "lower bounds" in data["note"]
    V = run.load(text_runs / "rkl_demo")[1].vocab_size
    for context in data["contexts"]:
        assert "truth" not in context
        for name in ("rkl_demo", "teacher llama_demo"):
            others = sum(n for _, n in context["tail"][name])
            assert others + len(context["words"]) == V
            assert len(context["logits"][name]) == len(context["words"])


def test_a_run_without_a_teacher_has_a_page_on_real_text(text_runs, monkeypatch):
    monkeypatch.setattr(writing, "WRITTEN", 10)
    monkeypatch.setattr(browser_numbers, "CONTEXTS", 3)
    config = read_config(text_runs / "llama_demo/config.json")
    assert not config.teachers
    path = page.write_report([text_runs / "llama_demo"])
    assert data_of(path)["models"] == ["llama_demo"] and data_of(path)["teacher"] == ""
    result = files.read_json(text_runs / "llama_demo/modes.json")
    assert result["curves"] == {} and "fkl" not in result["figures"]


def test_texts_are_no_tags(written):
    assert "<b>" not in page.table([["a"], ["</td><b>"]])
    script = written.read_text().split('id="data">')[1]
    assert "\\u003cs>" in script and script.index("<") == script.index("</script>")


def test_yardsticks_of_the_same_tokenizer_stand_beside(tmp_path, capsys):
    blimp = dict(accuracy=0.5, tokenizer="ours")
    for name, result in (("ngram-1", blimp), ("ngram-5", blimp | dict(tokenizer="another"))):
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "eval.json", {"blimp": result})
    subject = eval.Subject(tmp_path / NAMES[0], None, types.SimpleNamespace(hash="ours"), None)
    yardsticks = eval.yardsticks(subject, {"blimp": "blimp"})
    assert yardsticks == [("ngram-1", {"blimp": blimp})]
    assert "ngram-5 is not shown" in capsys.readouterr().out


def test_what_cannot_be_reported(tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        report.main([str(tmp_path)])


# ---------------------------------------------------------------- in a browser

class Browser:
    """A headless Chromium through chromedriver, by WebDriver's own protocol."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless=new", "--no-sandbox", "--window-size=1000,900"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": logs}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{made['sessionId']}"

    def ask(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, content, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def do(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def type(self, id, keys):
        """Keys, WebDriver's, into the element with this id, which has the focus then."""
        self.do(f"document.getElementById('{id}').focus()")
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": strokes}]})

    def click(self, id):
        found = self.ask("POST", "/element", {"using": "css selector", "value": f"#{id}"})
        self.ask("POST", f"/element/{[*found.values()][0]}/click", {})

    def log(self, kind):
        return self.ask("POST", "/se/log", {"type": kind})


LEFT, RIGHT = "\ue012", "\ue014"


@pytest.fixture(scope="module")
def browser():
    driver = shutil.which("chromedriver")
    if not driver:
        pytest.skip("no chromedriver here, so the page is not driven in a browser")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        try:
            opened = Browser(port)
        except urllib.error.HTTPError as e:
            pytest.skip(f"chromedriver has no browser: {json.load(e)['value']['message'][:80]}")
        yield opened
        opened.ask("DELETE", "")
    finally:
        process.terminate()
        process.wait()


def check_bars(browser, founds, index, temperature, teacher_too=False):
    """Every bar is softmax(z / T) of the model itself, and the truth's p*."""
    bars = browser.do("return [...document.querySelectorAll('.bar')].map((b) => "
                      "[b.dataset.model, b.dataset.word, Number(b.dataset.p)])")
    text = browser.do("return contextNow().text")
    assert browser.do("return document.getElementById('context').selectedIndex") == index
    for name, (model, tokenizer) in founds.items():
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        with torch.no_grad():
            z = model.logits(model(torch.tensor([ids])))[0, -1]
        T = temperature if teacher_too or not name.startswith("teacher") else 1.0
        p = (z / T).softmax(-1)
        mine = [(word, height) for model_name, word, height in bars if model_name == name]
        assert len(mine) == 15
        for word, height in mine[:-1]:
            assert height == pytest.approx(p[int(word)].item(), abs=1e-3)
        assert sum(height for _, height in mine) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_slider_and_picker_show_softmax(written, demo_runs, browser):
    browser.ask("POST", "/url", {"url": written.as_uri()})
    founds = {}
    for name in ("llama_demo", "rkl_demo"):
        key = name if name == "rkl_demo" else f"teacher {name}"
        founds[key] = run.load(demo_runs / name)[:2]
    check_bars(browser, founds, 0, 1.0)
    browser.type("temperature", LEFT * 10)
    check_bars(browser, founds, 0, 0.5)
    browser.click("next")
    browser.click("next")
    browser.click("teacher-too")
    check_bars(browser, founds, 2, 0.5, teacher_too=True)
    browser.type("context", "\ue013")  # the arrow up
    browser.type("temperature", RIGHT * 14)
    check_bars(browser, founds, 1, 1.2, teacher_too=True)

    # the table beside: KL(p||q) of what the bars show
    shown = browser.do("return [...document.querySelectorAll('#divergences tr')].map((r) => "
                       "[...r.children].map((c) => c.textContent))")
    text = browser.do("return contextNow().text")
    (teacher, tokenizer), (student, _) = founds.values()
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)]])
    with torch.no_grad():
        log_p, log_q = ((m.logits(m(ids))[0, -1] / 1.2).log_softmax(-1)
                        for m in (teacher, student))
    row = next(row for row in shown if row[0] == "rkl_demo")
    assert float(row[1]) == pytest.approx(-(log_q.exp() * log_q).sum().item(), abs=5e-3)
    assert float(row[2]) == pytest.approx((log_p.exp() * (log_p - log_q)).sum().item(), abs=2e-3)
    assert float(row[3]) == pytest.approx((log_q.exp() * (log_q - log_p)).sum().item(), abs=2e-3)


@pytest.mark.slow
def test_charts_are_drawn_within_their_frames(written, browser):
    browser.ask("POST", "/url", {"url": written.as_uri()})
    drawn = browser.do("return [...document.querySelectorAll('.charts svg')].map((svg) => "
                       "[svg.outerHTML, svg.querySelectorAll('circle').length, "
                       "[...svg.querySelectorAll('.tick, .line')].map((e) => {"
                       " const box = e.getBBox(); return [box.x, box.y, box.x + box.width, "
                       "box.y + box.height]; })])")
    charts = [chart for charts in data_of(written)["charts"].values() for chart in charts]
    assert len(drawn) == len(charts) == 5
    for (svg, dots, boxes), chart in zip(drawn, charts):
        assert "NaN" not in svg and "undefined" not in svg and chart["title"] in svg
        assert svg.count('class="line"') == len(chart["lines"])
        assert dots == (len(chart["lines"]) if chart["dot"] else 0)
        assert svg.count('class="tick"') >= 4
        for left, top, right, bottom in boxes:
            assert 0 <= left and right <= 400 and 0 <= top and bottom <= 280
    keys = browser.do("return [...document.querySelectorAll('[data-charts] .key')].map((e) => "
                      "e.textContent)")
    assert keys == ["".join(NAMES)] * 2


@pytest.mark.slow
def test_the_two_gaussians(written, browser):
    browser.ask("POST", "/url", {"url": written.as_uri()})

    def fits():
        rows = browser.do("return [...document.querySelectorAll('#fits tr')].slice(1).map((r) => "
                          "[...r.children].slice(1).map((c) => Number(c.textContent)))")
        return [dict(zip(("mean", "width", "fkl", "rkl"), row)) for row in rows]
    forward, reverse = fits()
    assert forward["mean"] == pytest.approx(-0.4)
    assert forward["width"] == pytest.approx(2.08, abs=0.01)
    assert reverse["mean"] == pytest.approx(-2, abs=0.02)  # the larger mode
    assert reverse["width"] == pytest.approx(0.7, abs=0.03)
    assert forward["fkl"] < reverse["fkl"] and reverse["rkl"] < forward["rkl"]
    browser.type("handle-0", RIGHT * 10)
    assert fits()[0]["mean"] == pytest.approx(-0.4 + 0.6, abs=0.01)
    browser.type("share", LEFT * 30)  # the other mode is the larger one now
    assert fits()[1]["mean"] > 1.5


@pytest.mark.slow
def test_a_page_without_a_context_says_so_and_goes_on(written, tmp_path, browser):
    start, end = "id=\"data\">", "</script>"
    head, rest = written.read_text().split(start)
    data, tail = rest.split(end, 1)
    data = json.dumps(json.loads(data) | {"contexts": [], "note": "There is no context to show"})
    path = tmp_path / "page.html"
    path.write_text(head + start + data + end + tail)
    browser.log("browser")
    browser.ask("POST", "/url", {"url": path.as_uri()})
    assert [entry for entry in browser.log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.do("return document.getElementById('browser-note').textContent").startswith(
        "There is no context")
    assert browser.do("return document.querySelectorAll('#fits tr').length") == 3


@pytest.mark.slow
def test_no_complaint_no_request_and_no_overflow(written, browser):
    browser.log("browser")
    browser.log("performance")
    browser.ask("POST", "/url", {"url": written.as_uri()})
    assert [entry for entry in browser.log("browser") if entry["level"] == "SEVERE"] == []
    asked = []
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    # a window cannot be as narrow as a phone
    size = dict(width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.ask("POST", "/goog/cdp/execute",
                {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    browser.ask("POST", "/url", {"url": written.as_uri()})
    assert browser.do("return document.documentElement.scrollWidth") == 390


def trained_with(*pairs):
    """Students by (label, divergence), "" for one without a teacher."""
    return [types.SimpleNamespace(label=label, config=types.SimpleNamespace(
        teachers=["coach"] if divergence else [], divergence=divergence or "rkl"))
        for label, divergence in pairs]


def test_each_run_has_a_colour_and_orange_is_reverse_kl_alone():
    students = trained_with(("a", "fkl"), ("b", "skew_rkl(0.3)"), ("c", "rkl"), ("d", "jsd(0.5)"),
                            ("e", ""), ("f", "skew_fkl(0.1)"))
    chosen = charts.colours(students)
    assert chosen == {"a": "forward", "b": "reverse", "c": "other-1", "d": "other-2",
                      "e": "alone", "f": "other-3"}
    assert charts.colours(trained_with(("d", "jsd(0.5)"))) == {"d": "other-1"}
    template = page.TEMPLATE.read_text()
    assert all(template.count(f"--{name}:") == 2 for name in charts.COLOURS)  # light and dark


@pytest.mark.parametrize("signs, beginning", [
    ([1, -1], "Yes: when both are equally varied, c says less that is wrong and leaves more out, "
              "compared with b."),
    ([0, 0], "No, any difference is sharpness"), ([1, 1], "No, it is better"),
    ([-1, 1], "No, it covers")])
def test_the_first_sentence_answers_the_title(signs, beginning):
    students = trained_with(("a", ""), ("b", "fkl"), ("c", "rkl"))
    for student in students:
        student.folder = pathlib.Path(student.label)
    against = {"truth": dict(temperature=1.0, signs=signs)}
    students[2].result = {"against": {"a": {}, "b": against}}
    assert words.plain_verdict(students).startswith(beginning)
    against["truth"]["signs"] = None
    assert words.plain_verdict(students).startswith("Nobody can say: at no temperature")
    students[2].result = {"against": {}}
    assert words.plain_verdict(students).startswith("Of c alone nobody can say")
