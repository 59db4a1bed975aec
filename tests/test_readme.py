"""What README says of the files is so."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_document_that_readme_names_is_there():
    paths = re.findall(r"\]\(([\w/.-]+)(?:#[^)]*)?\)", README)
    assert paths and all((ROOT / path).exists() for path in paths)
    configs = re.findall(r"configs/\w+\.py", README)
    assert configs and all((ROOT / path).exists() for path in configs)
