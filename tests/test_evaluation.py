"""Scores of ensembles: RMSD against RDKit's own, coverage, validity, the protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from rdgeodiff.chem import rmsd as rmsd_module
from rdgeodiff.chem.rmsd import rmsd_matrix, symmetry
from rdgeodiff.data.conformer_sets import ArchiveError, read_archive
from rdgeodiff.evaluation.covmat import score, summarize
from rdgeodiff.evaluation.generators import (
    DiffusionGenerator,
    EtkdgGenerator,
    Generated,
    make_generator,
    make_generators,
)
from rdgeodiff.evaluation.molecule_score import spread_out
from rdgeodiff.evaluation.published import NOTE, published_table
from rdgeodiff.evaluation.report import evaluate_archive
from rdgeodiff.evaluation.validity import geometry_deviation, posebusters_passes, right_stereo
from rdgeodiff.results import EmbedResult

QM9 = Path(__file__).parent.parent / "benchmarks" / "data" / "val_qm9.npz"

SYMMETRIC = [
    "CCCC",
    "C[N+](=O)[O-]",
    "CC(=O)[O-]",
    "OC(=O)c1ccccc1S(=O)(=O)[O-]",
    "NC(=N)NCCC[C@H](N)C(=O)O",
    "CS(=O)(=O)N",
    "[O-]P(=O)(O)OC",
    "CC(C)(C)c1ccc(C(F)(F)F)cc1",
    "C/C=N/[H]",
    "[2H]C(Cl)Br",
    "[H][H]",
    "O=Cl(=O)(=O)[O-]",
    "N[C@@H](Cc1ccccc1)C(=O)O",
]


@pytest.mark.parametrize("smiles", SYMMETRIC)
def test_rmsd_is_rdkits_best_rms_of_heavy_atoms(smiles: str) -> None:
    mol = embedded(smiles, 5)
    positions = positions_of(mol)
    heavy = [Chem.Mol(Chem.RemoveHs(mol), confId=k) for k in range(5)]
    expected = [[rdMolAlign.GetBestRMS(heavy[i], heavy[j]) for j in (3, 4)] for i in (0, 1, 2)]
    found = rmsd_matrix(mol, positions[:3], positions[3:])
    assert found.exact
    np.testing.assert_allclose(found.values, expected, atol=2e-6)


def test_rmsd_sees_handedness_and_ignores_placement() -> None:
    mol = embedded("C[C@H](F)Cl", 1)
    positions = positions_of(mol)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert rmsd_matrix(mol, positions @ quarter + 5.0, positions).values.item() < 1e-6
    assert rmsd_matrix(mol, -positions, positions).values.item() > 0.2


def test_too_many_symmetries_are_cut_and_said() -> None:
    mol = embedded("CC(C)(C)c1ccc(C(F)(F)F)cc1", 3)
    positions = positions_of(mol)
    full = rmsd_matrix(mol, positions[:1], positions[1:])
    cut = rmsd_matrix(mol, positions[:1], positions[1:], max_matches=7)
    assert full.matches == 72 and full.exact
    assert cut.matches in (7, 8) and cut.capped and not cut.exact
    assert (cut.values >= full.values - 1e-9).all()
    assert (symmetry(mol, 7).matches[0] == np.arange(14)).all()


def test_rmsd_stops_at_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmsd_module, "_BLOCK", 1)
    mol = embedded("CC(C)(C)C", 2)
    positions = positions_of(mol)
    found = rmsd_matrix(mol, positions[:1], positions[1:], max_seconds=-1.0)
    assert found.timed_out and not found.exact and found.matches == 1
    assert np.isfinite(found.values).all()


def test_rmsd_refuses_what_does_not_fit() -> None:
    mol = mol_from("CO")
    with pytest.raises(ValueError, match="not finite"):
        rmsd_matrix(mol, np.full((1, 6, 3), np.nan), np.zeros((1, 6, 3)))
    with pytest.raises(ValueError, match=r"\(count, 6, 3\)"):
        rmsd_matrix(mol, np.zeros((1, 5, 3)), np.zeros((1, 6, 3)))
    assert rmsd_matrix(mol, np.zeros((0, 6, 3)), np.zeros((2, 6, 3))).values.shape == (0, 2)


def test_coverage_and_matching_of_a_known_matrix() -> None:
    rmsd = np.array([[0.1, 0.9, 2.0], [0.5, 0.7, 1.0]])
    found = score(rmsd, (0.5, 0.7))
    assert found.cov_r == pytest.approx((100 / 3, 200 / 3))
    assert found.mat_r == pytest.approx((0.1 + 0.7 + 1.0) / 3)
    assert found.cov_p == pytest.approx((100.0, 100.0))  # at δ itself counts as covered
    assert found.mat_p == pytest.approx(0.3)


def test_molecules_without_conformers_count_as_uncovered() -> None:
    good, none = score(np.array([[0.2]]), (0.5,)), score(np.zeros((0, 1)), (0.5,))
    total = summarize([good, none, none])
    assert total.molecules == 3 and total.without_conformers == 2
    assert total.cov_r[0].mean == pytest.approx(100 / 3) and total.cov_r[0].median == 0
    assert total.mat_r.mean == pytest.approx(0.2) and total.mat_p.mean == pytest.approx(0.2)
    assert summarize([none]).mat_r.mean is None
    with pytest.raises(ValueError, match="no references"):
        score(np.zeros((2, 0)), (0.5,))


def test_stereo_and_geometry_of_mirrored_and_stretched_conformers() -> None:
    mol = embedded("C[C@H](F)/C=C/Cl", 2)
    positions = positions_of(mol)
    assert right_stereo(mol, positions).all()
    assert not right_stereo(mol, positions * [1, 1, -1]).any()
    assert right_stereo(mol, positions[:0]).shape == (0,)
    same = geometry_deviation(mol, positions, positions)
    assert same.bonds == same.angles == 0
    stretched = geometry_deviation(mol, positions * 1.1, positions)
    assert 0.08 < stretched.bonds < 0.18 and stretched.angles < 1e-6
    assert geometry_deviation(mol, positions[:0], positions).bonds is None


def test_posebusters_tells_good_from_bad() -> None:
    pytest.importorskip("posebusters")
    mol = embedded("CCO", 1)
    positions = positions_of(mol)
    assert posebusters_passes(mol, np.concatenate([positions, positions * 2.0])) == 1


def test_etkdg_generators_start_from_the_graph_and_repeat() -> None:
    mol = mol_from("OCC(N)=O")
    with_conformer = embedded("OCC(N)=O", 1)
    for method in ("etkdg", "etkdg+mmff"):
        (first,) = make_generator(method, seed=3)([mol], [3])
        (again,) = make_generator(method, seed=3)([with_conformer], [3])
        assert first.positions.shape == (3, 10, 3) and not first.notes
        np.testing.assert_array_equal(first.positions, again.positions)
    assert with_conformer.GetNumConformers() == 1 and mol.GetNumConformers() == 0


def test_etkdg_seed_zero_makes_different_conformers() -> None:
    mol = mol_from("CCCCCCO")
    (made,) = make_generator("etkdg", seed=0)([mol], [10])
    assert rmsd_matrix(mol, made.positions[:1], made.positions[1:]).values.max() > 0.5


def test_molecules_without_mmff_parameters_are_counted() -> None:
    (made,) = EtkdgGenerator(minimize=True)([mol_from("CB(O)O")], [2])
    assert made.notes == {"no_mmff_parameters": 2} and len(made.positions) == 2
    with pytest.raises(ValueError, match="unknown method"):
        make_generator("magic")


def test_models_beside_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def embed(mols: list, count: int, **options: object) -> list[EmbedResult]:
        seen.append(options)
        return [EmbedResult([], count, {})]

    monkeypatch.setattr("rdgeodiff.embed.EmbedMoleculesDiffusion", embed)
    others = ["runs/a.json", "runs/a.json, langevin", "b,langevin,5000"]
    generators = make_generators(
        ["etkdg", "diffusion"], others, seed=4, model="small", sampler="", steps=7, device="cpu"
    )
    assert [g.name for g in generators] == [
        "etkdg", "diffusion", "a", "a langevin", "b langevin 5000"
    ]  # fmt: skip
    for generator in generators[1:]:
        assert len(list(generator([mol_from("CO")], [1]))) == 1
    # Each loads its weights with one call more; what a description leaves out is the model's own.
    told = [(o["model"], o["sampler"], o["steps"]) for o in seen[1::2]]
    assert told == [
        ("small", "", 7),
        ("runs/a.json", "", 0),
        ("runs/a.json", "langevin", 0),
        ("b", "langevin", 5000),
    ]
    assert all(o["device"] == "cpu" and o["randomSeed"] == 4 for o in seen[1::2])


@pytest.mark.parametrize("text", ["", ",langevin", "a,langevin,many", "a,langevin,5,6", "a,,-1"])
def test_a_malformed_model_is_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=repr(text)):
        make_generators([], [text])
    with pytest.raises(ValueError, match="two methods with one name"):
        make_generators(["etkdg"], ["x/a.json", "y/a.json"])


def _fake_embed(mols: list, count: int, *, randomSeed: int, **options: object) -> list[EmbedResult]:
    """Right conformers except that the last one of each molecule is missing."""
    results = []
    for mol in mols:
        assert mol.GetNumConformers() == 0
        embedded(mol, max(count - 1, 1), seed=randomSeed + 1)
        ids = [c.GetId() for c in mol.GetConformers()]
        results.append(
            EmbedResult(
                ids, count, {"CLASH": 1}, rejections={"STEREO": 4}, raw_samples=10, raw_stereo_ok=9
            )
        )
    return results


def test_protocol_on_some_molecules(tmp_path: Path) -> None:
    generators = [DiffusionGenerator(embed=_fake_embed), make_generator("etkdg", seed=1)]
    report = evaluate_archive(QM9, generators, molecules=2, progress=False)
    references = spread_out(list(read_archive(QM9)), 2)
    assert report.deltas == (0.5,)
    for method in report.methods:
        assert [m.references for m in method.molecules] == [len(r.positions) for r in references]
        assert [m.requested for m in method.molecules] == [2 * len(r.positions) for r in references]
    fake, etkdg = (m.summary() for m in report.methods)
    assert fake["delivered"] == fake["requested"] - 2
    assert fake["raw_stereo_share"] == 90.0 and etkdg["raw_stereo_share"] is None
    assert fake["notes"] == {"missing CLASH": 2, "resampled STEREO": 8}
    assert etkdg["stereo_share"] == etkdg["delivered_share"] == 100.0
    assert 0.1 < etkdg["mat_r"]["mean"] < 0.6 and etkdg["rmsd_upper_bounds"] == 0
    text = report.to_markdown()
    assert "| rdgeodiff |" in text and "| ETKDGv3 |" in text and "missing CLASH 2" in text
    assert json.loads(json.dumps(report.to_dict()))["methods"]["etkdg"]["summary"] == json.loads(
        json.dumps(etkdg)
    )


def test_a_method_that_makes_nothing_is_still_in_the_table() -> None:
    class Nothing:
        name = "nothing"

        def __call__(self, mols, counts):  # type: ignore[no-untyped-def]
            for mol, count in zip(mols, counts, strict=True):
                yield Generated(np.zeros((0, mol.GetNumAtoms(), 3)), count, 0.1, error="no")

    report = evaluate_archive(QM9, [Nothing()], molecules=1, progress=False)
    summary = report.methods[0].summary()
    assert summary["cov_r"][0]["mean"] == 0 and summary["mat_r"]["mean"] is None
    assert "1 molecules with no conformer" in report.to_markdown()
    assert "1 molecules not attempted" in report.to_markdown()


def test_an_interrupted_run_reports_what_is_finished() -> None:
    class Stopped:
        name = "stopped"

        def __call__(self, mols, counts):  # type: ignore[no-untyped-def]
            yield next(EtkdgGenerator()(mols[:1], counts[:1]))
            raise KeyboardInterrupt

    report = evaluate_archive(QM9, [Stopped()], molecules=3, progress=False)
    assert report.interrupted and len(report.methods[0].molecules) == 1


def test_published_rows_are_of_the_same_threshold() -> None:
    rows = published_table((0.5,), "geodiff").splitlines()
    assert rows[0] == NOTE and all("GEOM-QM9 | geodiff | 0.5" in r for r in rows[4:])
    assert {r.split("|")[1].strip() for r in rows[4:]} >= {"CVGAE", "ConfGF", "GeoDiff-A"}
    assert "| GeoDiff-C | GEOM-Drugs | geodiff | 1.25 | 89.13/97.88 |" in published_table((1.25,))
    assert "torsional" in published_table((0.5,)) and "torsional" not in "".join(rows)
    assert published_table((0.3,)) == ""


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ArchiveError, match="x.npz"):
        evaluate_archive(path, [], progress=False)
    np.savez(path, smiles=np.array(["C"]))
    with pytest.raises(ArchiveError, match="coords"):
        evaluate_archive(path, [], progress=False)
