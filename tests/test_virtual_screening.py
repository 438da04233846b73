"""The shape screen of the examples: who is active, who is a decoy, and what the figures mean."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import embedded
from rdkit import Chem
from rdkit.Chem import rdShapeAlign

ROOT = Path(__file__).parent.parent
QUERY = "COc1ccc(S(=O)(=O)N(C)CC(=O)NCc2ccccc2)cc1OC"
ANALOGUES = (
    "COc1ccc(S(=O)(=O)N(C)CC(=O)NCc2ccc(F)cc2)cc1OC",
    "COc1ccc(S(=O)(=O)N(C)CC(=O)NCc2ccccc2)cc1",
    "CCc1ccc(S(=O)(=O)N(C)CC(=O)NCc2ccccc2)cc1OC",
)
DECOYS = (
    "CCCCCCCCC1CCC(CCC2CCC(CCCC)CC2)CC1",
    "O=c1cc(-c2ccc3c(c2)OCO3)oc2cc3c(cc12)OCO3",
    "Clc1ccc2c(c1)C(c1ccccc1)=NCc1nnc(C3CCCCC3)n1-2",
)


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in ("virtual_screening", "screening_set"):
        sys.modules.pop(name, None)


def test_actives_are_analogues_and_decoys_are_unlike_and_of_their_sizes() -> None:
    from screening_set import Pose, choose

    pose = Pose(QUERY, embedded(QUERY))
    # The query itself, and molecules far too small, belong to neither.
    library = [*DECOYS, QUERY, "CCO", "c1ccccc1", *ANALOGUES]
    how = {"similar": 0.45, "queries": 2, "actives": 3, "pool": 9}
    (query,) = choose([pose], library, **how)
    assert set(query.actives) == set(ANALOGUES)
    sizes = [Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in query.actives]
    assert query.decoys and set(query.decoys) <= set(DECOYS)
    for smiles in query.decoys:
        assert min(sizes) <= Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() <= max(sizes)
    assert choose([pose], library[:-1], **how) == []


def test_the_same_molecule_in_another_form_is_left_out(tmp_path: Path) -> None:
    from screening_set import read_library

    (tmp_path / "library.smi").write_text("CC(=O)[O-]\nC[C@H](N)C(=O)O\nCCO\nCCCCCCC\n")
    (tmp_path / "known.smi").write_text("CC(=O)O\nC[C@@H]([NH3+])C(=O)[O-]\n")
    kept = read_library(tmp_path / "library.smi", 6, [tmp_path / "known.smi"])
    assert kept == ["CCO"]
    assert len(read_library(tmp_path / "library.smi", 7, [])) == 4


def test_figures_of_a_list_whose_order_is_known() -> None:
    from screening_set import Pose, Query
    from virtual_screening import Outcome, enrichment, rank

    hits = np.array([True, False, True, False, False, False, False, False, False, False])
    assert enrichment(hits, 0.1) == pytest.approx(5)
    assert enrichment(hits, 0.3) == pytest.approx(10 / 3)
    # The query's own pose is found first; a molecule without conformers comes last, whoever it is.
    mol = embedded("CC(=O)Nc1ccc(O)cc1")
    same = rdShapeAlign.PrepareConformer(Chem.RemoveHs(mol))
    other = rdShapeAlign.PrepareConformer(Chem.RemoveHs(embedded("CCCCCCCCCCC")))
    shapes = {"self": [other, same], "other": [other], "none": []}
    outcome = Outcome()
    rank(Query(Pose("", mol), ["self", "none"], ["other"]), shapes, outcome)
    assert outcome.auc == {"shape": [0.5], "shape and colour": [0.5]}
    assert outcome.early["shape"][0][0] == pytest.approx(1.5)
    ties = Outcome()
    rank(Query(Pose("", mol), ["none"], ["none"]), shapes, ties)
    assert ties.auc["shape"] == [0.0]


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from virtual_screening import main

    library = tmp_path / "library.smi"
    library.write_text("\n".join((*ANALOGUES, *DECOYS)))
    call = ["--conformers", "1", "--recover", "1", "--queries", "1", "--actives", "3"]
    main([*call, "--library", str(library), "--similar", "0.45", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "3 actives" in said
    for row in ("| ETKDGv3 | 1 |", "| rdgeodiff | 1 |", "| rdgeodiff | shape and colour |"):
        assert row in said
    assert (tmp_path / "virtual_screening.png").stat().st_size > 10_000
