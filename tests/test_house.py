"""The house: which room may import which. An arrow that runs up, or a circle, is a fault."""
import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
METHOD = ["model", "losses", "bpe"]  # each can be copied alone
# from the top floor down: a file imports only from the floors below its own
FLOORS = [["tools"], ["teacher"], ["distill"], ["eval"], ["rollouts", "data", "babytalk"],
          ["onecoach"], METHOD]
FILES = [path.relative_to(ROOT) for folder in (".", "onecoach", "tools", "tools/*")
         for path in sorted(ROOT.glob(f"{folder}/*.py"))]


def imported(path):
    """The project's modules that a file imports, anywhere in it: {"losses", "onecoach.files"}."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if floor(name) is not None}


def floor(name):
    """The number of a module's floor, 0 at the top; None for a package that is not ours."""
    head = name.split(".")[0]
    return next((i for i, rooms in enumerate(FLOORS) if head in rooms), None)


def module(path):
    return ".".join(path.with_suffix("").parts)


def test_the_root_holds_the_method_and_nothing_else():
    stems = {path.stem for path in ROOT.glob("*.py")}
    assert stems == {room for rooms in FLOORS for room in rooms} - {"tools", "onecoach"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_import_runs_up(path):
    here = floor(module(path))
    for name in imported(path):
        same_room = name.split(".")[0] == module(path).split(".")[0]
        same_floor = FLOORS[here] == ["rollouts", "data", "babytalk"]
        assert floor(name) > here or same_room or same_floor and floor(name) == here, name


@pytest.mark.parametrize("name", METHOD)
def test_the_method_imports_nothing_of_the_project(name):
    assert not imported(pathlib.Path(f"{name}.py"))


def test_there_is_no_circle():
    arrows = {module(path): imported(path) for path in FILES}

    def visit(name, above):
        assert name not in above, f"{' imports '.join([*above, name])}"
        for other in arrows.get(name, ()):
            if other != name and other in arrows:
                visit(other, [*above, name])
    for name in arrows:
        visit(name, [])
