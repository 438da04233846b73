"""The papers' rules, reference files of every kind, and what comes out of a run."""

from __future__ import annotations

import dataclasses
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of
from rdkit import Chem

from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.rebuild import RebuildError, mol_of
from rdgeodiff.cli import main
from rdgeodiff.data.conformer_sets import (
    ArchiveError,
    ReferenceMolecule,
    featurize_archive,
    read_archive,
    write_archive,
)
from rdgeodiff.evaluation.covmat import score
from rdgeodiff.evaluation.generators import DiffusionGenerator, EtkdgGenerator, Generated
from rdgeodiff.evaluation.plots import plot_coverage
from rdgeodiff.evaluation.protocols import OWN, PROTOCOLS, SWEEP, protocol_of
from rdgeodiff.evaluation.references import read_references
from rdgeodiff.evaluation.report import evaluate_archive
from rdgeodiff.results import EmbedResult


def ensembles(tmp_path: Path, *smiles: str) -> Path:
    path = tmp_path / "some.npz"
    found = []
    for text in smiles:
        mol = embedded(text, 2)
        found.append(ReferenceMolecule(text, mol_from(text), positions_of(mol), None))
    write_archive(path, found)
    return path


class Partial:
    """ETKDG that is short of a conformer for the molecules in `lacking`."""

    name = "partial"

    def __init__(self, lacking: set[int]) -> None:
        self._lacking = lacking

    def __call__(self, mols, counts):
        for k, made in enumerate(EtkdgGenerator(seed=3)(mols, counts)):
            short = made.positions[: -1 if k in self._lacking else None]
            yield dataclasses.replace(made, positions=short)


def test_thresholds_are_those_of_the_papers():
    small, large = [mol_from("CCO")], [mol_from("CCO"), mol_from("C" * 12)]
    assert [protocol_of(n).deltas(small) for n in ("", "geodiff", "torsional")] == [(0.5,)] * 3
    assert OWN.deltas(large) == (0.75, 1.25)
    assert PROTOCOLS["geodiff"].deltas(large) == (1.25,)
    assert PROTOCOLS["torsional"].deltas(large) == (0.75,)
    assert len(SWEEP) == 60 and (SWEEP[0], SWEEP[9], SWEEP[-1]) == (0.05, 0.5, 3.0)
    with pytest.raises(ValueError, match="unknown protocol 'x'"):
        protocol_of("x")


def test_only_torsional_diffusion_wants_less_than_delta():
    rmsd = np.array([[0.5]])
    assert score(rmsd, (0.5,)).cov_r == (100.0,)
    assert score(rmsd, (0.5,), strict=True).cov_r == (0.0,)
    assert PROTOCOLS["torsional"].strict and not PROTOCOLS["geodiff"].strict


def test_molecules_left_out_are_counted(tmp_path):
    path = ensembles(tmp_path, "CCCO", "CC.O", "O", "CCN")
    counts = {n: protocol_of(n) for n in ("", "geodiff", "torsional")}
    left = {
        n: evaluate_archive(path, [EtkdgGenerator()], protocol=p, progress=False)
        for n, p in counts.items()
    }
    assert left[""].left_out == {}
    assert left["geodiff"].left_out == {"several fragments": 1}
    assert left["torsional"].left_out == {"several fragments": 1, "no chain of four atoms": 1}
    assert [len(r.methods[0].molecules) for r in left.values()] == [4, 3, 2]
    assert "Left out by the protocol: 1 molecules with several" in left["geodiff"].to_markdown()


def test_a_method_does_not_gain_unseen_by_failing(tmp_path):
    path = ensembles(tmp_path, "CCCO", "CCCN", "CCC=O")
    run = {
        n: evaluate_archive(path, [Partial({1})], protocol=protocol_of(n), progress=False)
        for n in ("geodiff", "torsional")
    }
    assert run["geodiff"].methods[0].covmat.molecules == 2
    assert run["torsional"].methods[0].covmat.molecules == 3
    for report in run.values():
        assert len(report.methods[0].molecules) == 3
        assert report.methods[0].summary()["incomplete"] == 1
    text = run["geodiff"].to_markdown()
    assert "1 molecules with fewer conformers than asked for are not in the means" in text
    assert "with them COV-R is" in text and "with them" not in run["torsional"].to_markdown()
    nothing = evaluate_archive(
        path, [Partial({0, 1, 2})], protocol=protocol_of("geodiff"), progress=False
    )
    assert "| partial | –" in nothing.to_markdown()


def test_scores_do_not_depend_on_the_number_of_workers(tmp_path):
    generators = [EtkdgGenerator(seed=1), EtkdgGenerator(seed=2)]
    path = ensembles(tmp_path, "CCCO", "CCC(=O)N", "CCCC")
    one, three = (
        evaluate_archive(path, generators, workers=n, sweep=True, progress=False) for n in (1, 3)
    )
    for a, b in zip(one.methods, three.methods, strict=True):
        assert [m.covmat for m in a.molecules] == [m.covmat for m in b.molecules]
        assert a.curve == b.curve
        assert [m.smiles for m in b.molecules] == ["CCCO", "CCC(=O)N", "CCCC"]


def test_an_error_while_scoring_is_not_lost(tmp_path):
    class Broken:
        name = "broken"

        def __call__(self, mols, counts):
            for mol in mols:
                yield Generated(np.full((1, mol.GetNumAtoms(), 3), np.nan), 1, 0.0)

    for workers in (1, 2):
        with pytest.raises(ValueError, match="not finite"):
            evaluate_archive(
                ensembles(tmp_path, "CCO"), [Broken()], workers=workers, progress=False
            )


def test_curves_rise_and_agree_with_the_scores(tmp_path):
    report = evaluate_archive(
        ensembles(tmp_path, "CCCO", "CCCN"), [EtkdgGenerator()], sweep=True, progress=False
    )
    method = report.methods[0]
    for side in ("cov_r", "cov_p"):
        means = [s.mean for s in getattr(method.curve, side)]
        assert means == sorted(means) and means[-1] == 100.0
        assert means[SWEEP.index(0.5)] == getattr(method.covmat, side)[0].mean
    stored = json.loads(json.dumps(report.to_dict()))["methods"]["etkdg"]
    assert stored["curve"]["cov_r_mean"][9] == method.covmat.cov_r[0].mean
    assert "curve" not in stored["molecules"][0]


def test_diffusion_with_a_force_field_asks_for_the_public_relaxation():
    asked = []

    def embed(mols, count, *, randomSeed, **options):
        asked.append(options)
        embedded(mols[0], count)
        ids = [c.GetId() for c in mols[0].GetConformers()]
        return [EmbedResult(ids, count, unrelaxed={"NOT_CONVERGED": 1})]

    mol = mol_from("CCCO")
    plain = DiffusionGenerator(embed=embed)
    relaxed = DiffusionGenerator(embed=embed, minimize=True)
    assert (plain.name, relaxed.name) == ("diffusion", "diffusion+mmff")
    list(plain([mol], [2]))
    assert all("relax" not in options for options in asked)
    asked.clear()
    (made,) = relaxed([mol], [2])
    assert all(options["relax"] == "MMFF94s" for options in asked)
    assert made.notes == {"unrelaxed NOT_CONVERGED": 1} and mol.GetNumConformers() == 0


# Reference files


STEREO = ("C[C@H](F)Cl", "C/C=C\\CO", "CC(=O)[O-]", "c1cc[nH]c1", "C[N+](=O)[O-]", "F/C=N/C")


@pytest.mark.parametrize("smiles", [*STEREO, "C[C@]12CC[C@@H](C1)O2", "[CH3]", "C[NH3+].[Cl-]"])
def test_a_graph_gives_its_molecule_back(smiles):
    mol = mol_from(smiles)
    back = mol_of(featurize(mol))
    assert Chem.MolToSmiles(Chem.RemoveHs(back)) == Chem.MolToSmiles(Chem.RemoveHs(mol))
    assert [a.GetAtomicNum() for a in back.GetAtoms()] == [a.GetAtomicNum() for a in mol.GetAtoms()]


def test_a_graph_that_says_too_little_is_refused():
    graph = featurize(mol_from("CCO"))
    other = graph.pair_codes.copy()
    other[0, 0] = 5
    charged = graph.node_codes.copy()
    charged[0, 1] = 4
    for change in ({"pair_codes": other}, {"node_codes": charged}):
        with pytest.raises(RebuildError):
            mol_of(dataclasses.replace(graph, **change))


def test_archive_shard_and_sdf_hold_the_same_references(tmp_path):
    archive = ensembles(tmp_path, *STEREO[:4])
    shard, sdf = tmp_path / "shard.npz", tmp_path / "x.sdf.gz"
    featurize_archive(archive, shard, progress=False)
    blocks = []
    for reference in read_archive(archive):
        for positions in reference.positions:
            mol = Chem.Mol(reference.mol)
            conformer = Chem.Conformer(mol.GetNumAtoms())
            conformer.SetPositions(positions)
            mol.AddConformer(conformer)
            blocks.append(Chem.MolToMolBlock(mol) + "$$$$\n")
    sdf.write_bytes(gzip.compress("".join(blocks).encode()))
    expected = list(read_references(archive))
    for path in (shard, sdf):
        found = list(read_references(path))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert Chem.CanonSmiles(a.smiles) == Chem.CanonSmiles(b.smiles)
            np.testing.assert_allclose(a.positions, b.positions, atol=6e-4)
            assert (featurize(a.mol).pair_codes == featurize(b.mol).pair_codes).all()


def test_bad_reference_files_are_named(tmp_path):
    path = tmp_path / "x.sdf"
    good = Chem.MolToMolBlock(embedded("CO")) + "$$$$\n"
    bare = Chem.MolToMolBlock(Chem.RemoveHs(embedded("CO"))) + "$$$$\n"
    flat = Chem.MolToMolBlock(mol_from("CO")) + "$$$$\n"
    for text, message in (
        (good + "nonsense\n$$$$\n" + good, "record 1 is not"),
        (good + bare, "record 1 lacks hydrogens"),
        (flat, "record 0 has no 3-D"),
        ("", "no records"),
    ):
        path.write_text(text)
        with pytest.raises(ArchiveError, match=f"x.sdf: {message}"):
            list(read_references(path))
    with pytest.raises(OSError, match="nowhere"):
        list(read_references(tmp_path / "nowhere.npz"))


# The command


def test_the_command_writes_json_table_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = ensembles(tmp_path, "CCCO", "CCCN")
    out, table, plot = (tmp_path / n for n in ("o.json", "o.md", "o.png"))
    call = ["evaluate", "--references", str(path), "--protocol", "geodiff", "--methods", "etkdg"]
    files = ["--out", str(out), "--table", str(table), "--plot", str(plot)]
    assert main([*call, *files, "--workers", "2", "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == table.read_text().strip()
    assert "| GeoDiff-A | GEOM-QM9 | geodiff | 0.5 |" in table.read_text()
    (stored,) = json.loads(out.read_text())["archives"]
    assert stored["protocol"]["name"] == "geodiff" and len(stored["methods"]["etkdg"]["curve"]) == 5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_call_ends_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = ensembles(tmp_path, "CCCO")
    assert main(["evaluate", str(path), "--plot", str(tmp_path / "o.png"), "--quiet"]) == 2
    assert "pip install 'rdgeodiff[eval]'" in capsys.readouterr().err
    with pytest.raises(ImportError, match="Matplotlib"):
        plot_coverage([], tmp_path / "o.png")


def test_a_run_without_curves_has_nothing_to_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report = evaluate_archive(ensembles(tmp_path, "CCO"), [EtkdgGenerator()], progress=False)
    with pytest.raises(ValueError, match="no curves"):
        plot_coverage([report], tmp_path / "o.png")


def test_a_call_without_references_ends_with_a_sentence(capsys):
    assert main(["evaluate", "--methods", "etkdg"]) == 2
    assert "name at least one file" in capsys.readouterr().err
