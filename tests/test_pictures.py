"""Pictures: files that open, molecules that stay as they are, a page that runs nothing."""

from __future__ import annotations

import html.parser
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of, tiny_network
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from rdgeodiff import AnimateDiffusion, DrawConformerGrid, ShowConformers, embed_file
from rdgeodiff.checkpoint import load_model
from rdgeodiff.cli import main
from rdgeodiff.model_file import save_model
from rdgeodiff.pictures.animation import diffusion_trajectory
from rdgeodiff.pictures.html_report import rmsd_spread, structure_svg
from rdgeodiff.pictures.superposition import superposed
from rdgeodiff.results import EmbedResult


class Tags(html.parser.HTMLParser):
    """Names of all elements, and all attributes that could fetch or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.active += [n for n, _ in attrs if n.startswith("on") or n in ("src", "href")]


def test_a_grid_shows_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    salt = embedded("CC(=O)[O-].[Na+]", 2)
    salt.SetProp("_Name", "price: $5_{x}$")  # must not be read as a formula
    mols = [embedded("C[C@H](N)C(=O)O", 3), None, mol_from("CO"), Chem.Mol(), salt, embedded("C")]
    before = [m.ToBinary() if m else None for m in mols]
    path = tmp_path / "grid.png"
    DrawConformerGrid(mols, path, dpi=40)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size[0] == 480
        assert len(image.convert("RGB").getcolors(1_000_000)) > 50
    assert before == [m.ToBinary() if m else None for m in mols]
    with pytest.raises(ValueError, match="1 names for 6 molecules"):
        DrawConformerGrid(mols, path, names=["one"])
    with pytest.raises(ValueError, match="at least one molecule"):
        DrawConformerGrid([], path)


def test_drawing_leaves_a_notebook_s_backend_alone(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    DrawConformerGrid([embedded("CO")], tmp_path / "a.png", dpi=30)
    assert matplotlib.get_backend().lower() == "svg"


def test_superposed_conformers_are_moved_as_rigid_bodies() -> None:
    mol = Chem.RemoveHs(embedded("CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O", 3))
    laid = superposed(mol)
    assert np.abs(laid.mean((0, 1))).max() < 1e-9
    for before, after in zip(positions_of(mol), laid, strict=True):
        moved = Chem.Mol(mol)
        moved.RemoveAllConformers()
        for points in (before, after):
            conformer = Chem.Conformer(mol.GetNumAtoms())
            conformer.SetPositions(np.ascontiguousarray(points))
            moved.AddConformer(conformer, assignId=True)
        # Equivalent atoms may change places, hands may not.
        assert rdMolAlign.GetBestRMS(Chem.Mol(moved), moved, 0, 1) < 1e-4


def test_a_view_holds_the_chosen_conformers(monkeypatch: pytest.MonkeyPatch) -> None:
    mol = embedded("CCO", 4)
    mol.RemoveConformer(1)
    before = mol.ToBinary()
    assert ShowConformers(mol, [3, 0]).write_html().count(".addModel(") == 2
    assert ShowConformers(mol, hydrogens=True).write_html().count(".addModel(") == 3
    assert mol.ToBinary() == before
    # Without a network, and whatever the file called its molecule.
    mol.SetProp("_Name", "</script><img src=x onerror=y>")
    text = ShowConformers(mol).write_html()
    assert "data:text/javascript;base64," in text and "https://" not in text
    assert "onerror" not in text and text.count("</script>") == 1
    assert "https://" in ShowConformers(mol, offline=False).write_html()
    with pytest.raises(ValueError, match=r"no conformer with id 1; there are \[0, 2, 3\]"):
        ShowConformers(mol, [1])
    with pytest.raises(ValueError, match="embed it first"):
        ShowConformers(mol_from("C"))
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(ImportError, match=r"rdgeodiff\[notebook\]"):
        ShowConformers(mol)


def test_the_diffusion_is_animated(tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny", tiny_network(), {})
    mol = mol_from("CCO")
    course = diffusion_trajectory(mol, load_model(model), 3, 4)
    assert course.positions.shape == (5, 9, 3) and course.sigmas[-1] == 0
    assert (np.diff(course.sigmas) < 0).all()
    # It begins as noise of the highest level.
    assert 0.5 < course.positions[0].std() / course.sigmas[0] < 1.5
    path = tmp_path / "a.gif"
    AnimateDiffusion(mol, path, model=str(model), steps=2, pixels=80)
    with Image.open(path) as image:
        assert image.format == "GIF" and image.n_frames > 20 and image.size == (80, 80)
    assert mol.GetNumConformers() == 0
    with pytest.raises(ValueError, match="molecule 0 .*atom 1 is Pt"):
        AnimateDiffusion(Chem.MolFromSmiles("C[Pt]"), path, model=str(model))


def test_the_report_tells_everything_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
        results = []
        for mol in mols:
            short = mol.GetNumAtoms() < 9
            embedded(mol, count - short)
            failures = {"CLASH": 1} if short else {}
            results.append(EmbedResult(list(range(count - short)), count, failures))
        return results

    monkeypatch.setattr(embed_file, "EmbedMoleculesDiffusion", embed)
    evil = "<script>alert(1)</script>"
    source, page = tmp_path / "in.smi", tmp_path / "report.html"
    source.write_text(f"CCCCO {evil}\nCO <img src=x onerror=y> & {{}}\n<b>bad( third\n")
    call = ["embed", str(source), str(tmp_path / "out.sdf"), "-n", "3", "--report", str(page)]
    assert main([*call, "--seed", "4", "--quiet"]) == 0
    text = page.read_text()
    tags = Tags(text)
    assert not {"script", "img", "b", "link", "iframe"} & set(tags.names) and not tags.active
    assert "&lt;script&gt;alert(1)" in text and "&lt;b&gt;bad(" in text and "randomSeed 4" in text
    assert tags.names.count("svg") == 2
    assert "3 molecules: 1 complete, 1 with fewer conformers, 1 without any" in text
    assert "<td>INVALID_INPUT</td>" in text and "<td>CLASH</td>" in text
    assert "3 / 3" in text and "2 / 3" in text and "0 / 3" in text
    assert main([*call[:-1], str(tmp_path / "no" / "report.html"), "--quiet"]) == 2


def test_notes_of_a_file_do_not_reach_the_drawing() -> None:
    mol = Chem.MolFromSmiles("CO")
    for key in ("atomNote", "atomLabel", "_displayLabel"):
        mol.GetAtomWithIdx(1).SetProp(key, "</svg><script>alert(1)</script>")
    assert "script" not in structure_svg(mol) and structure_svg(mol).startswith("<svg")


def test_spread_is_that_of_rdkit() -> None:
    mol = embedded("CCCCO", 4)
    expected = rdMolAlign.GetAllConformerBestRMS(Chem.RemoveHs(mol))
    mean, low, high = rmsd_spread(mol)
    assert (mean, low, high) == pytest.approx(
        (np.mean(expected), min(expected), max(expected)), abs=1e-3
    )
    assert rmsd_spread(embedded("CO")) is None
