"""The notebook of the examples, executed from its first cell to its last in a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "conformers.ipynb"


def test_the_notebook_runs_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(c.get("outputs") for c in notebook.cells), "strip the outputs"
    client.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": NOTEBOOK.parent}},
    ).execute()
    shown: dict[str, str] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown.update(output.get("data", {}))
    assert "c1ccccc" in notebook.cells[1].source and "INVALID_INPUT" in str(notebook.cells[3])
    # A view whose script is on board, a picture, and the table of the comparison.
    assert "data:text/javascript;base64," in shown["text/html"]
    assert len(shown["image/png"]) > 10_000
    assert "ETKDGv3 + MMFF94s" in shown["text/markdown"]
