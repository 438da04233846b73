"""What the pages tell people to type runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import rdgeodiff
from rdgeodiff.cli import main

ROOT = Path(__file__).parent.parent
COOKBOOK = ROOT / "docs" / "cookbook.md"
RECIPES = re.findall(
    r"^## (\d+\. .+?)$\n+```(python|bash)\n(.*?)^```$",
    COOKBOOK.read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def test_no_recipe_is_left_out() -> None:
    text = COOKBOOK.read_text(encoding="utf-8")
    assert len(RECIPES) == text.count("\n## ") == text.count("\n```") // 2 == 17


@pytest.mark.parametrize(
    ("language", "code"), [r[1:] for r in RECIPES], ids=[r[0] for r in RECIPES]
)
def test_the_recipe_runs(
    language: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if language == "python":
        pytest.importorskip("pandas" if "pandas" in code else "matplotlib")
        exec(compile(code, str(COOKBOOK), "exec"), {"__name__": "recipe"})
        return
    for line in code.splitlines():
        if line.startswith("rdgeodiff "):
            # In this process: another would load torch once more.
            assert main([*shlex.split(line)[1:], "--quiet"]) == 0, line
        else:
            subprocess.run(line, shell=True, check=True)


@pytest.mark.parametrize("page", ["README.md", "docs/migration.md"])
def test_the_snippets_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, page, "exec"), namespace)


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text):
        assert (ROOT / page).parent.joinpath(target.split("#")[0]).exists(), target


def test_the_reference_names_everything_that_is_public() -> None:
    named = re.findall(
        r"auto(?:function|class):: rdgeodiff\.(\w+)", (ROOT / "docs" / "api.md").read_text()
    )
    assert sorted(named) == sorted(rdgeodiff.__all__)
