"""What README says of the files is so."""
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+\.py)` \| ([\d to]+) \|", README, re.MULTILINE)


@pytest.mark.parametrize("name, lines", ROWS)
def test_the_lines_to_read_end_where_a_part_ends(name, lines):
    text = (ROOT / name).read_text(encoding="utf-8").splitlines()
    last = int(lines.split()[-1])
    after = [line for line in text[last:] if line]
    assert text[last - 1] or not after, "the range ends in a blank line"
    assert not after or after[0].startswith(("# ====", "# ----")), after[0]


def test_the_reverse_kl_is_where_readme_says():
    line = int(re.search(r"`rkl`, line (\d+)", README).group(1))
    text = (ROOT / "losses.py").read_text(encoding="utf-8").splitlines()
    assert text[line - 1].startswith("def rkl(")


def test_every_document_that_readme_names_is_there():
    paths = re.findall(r"\]\(([\w/.-]+)(?:#[^)]*)?\)", README)
    assert paths and all((ROOT / path).exists() for path in paths)
    configs = re.findall(r"configs/\w+\.py", README)
    assert configs and all((ROOT / path).exists() for path in configs)
