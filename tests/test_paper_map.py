"""docs/paper_map.md names only what exists."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from rdgeodiff import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
FUNCTIONS = [q for q in QUOTED if re.fullmatch(r"rdgeodiff[\w.]*:\w+", q)]
TESTS = [q for q in QUOTED if q.startswith("tests/")]
COMMANDS = [q for q in QUOTED if q.startswith(("rdgeodiff ", "make "))]


def test_the_whole_paper_is_there() -> None:
    for part in ("eq. 1", "eq. 2", "eq. 3", "eq. 4", "eqs. 5–7", "eqs. 8–9", "eqs. 10–11",
                 "Proposition 1", "Proposition 2", "Proposition 3", "Algorithm 1", "Table 1",
                 "Table 2", "Table 3", "Table 4", "Table 5", "Figure 1", "Figure 2"):  # fmt: skip
        assert part in TEXT, f"{part} is missing"
    assert len(FUNCTIONS) > 20 and len(TESTS) > 20 and len(COMMANDS) > 8


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_exist(name: str) -> None:
    module, attribute = name.split(":")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", TESTS)
def test_tests_exist(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert not function or function in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text()
        return
    parser, path = cli._parser(), "rdgeodiff"
    while words and (children := _children(parser)):
        assert words[0] in children, f"{path} has no command {words[0]!r}"
        path, parser = f"{path} {words[0]}", children[words.pop(0)]
    known = {option for action in parser._actions for option in action.option_strings}
    unknown = [word for word in words if word.startswith("--") and word not in known]
    assert not unknown, f"{path} has no {unknown}"


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_archives_of_the_repository_exist() -> None:
    for path in re.findall(r"benchmarks/[\w/.]+", TEXT):
        assert (ROOT / path).exists(), path
