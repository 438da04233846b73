"""Fragments around rotatable bonds."""

from __future__ import annotations

import pytest
from rdkit import Chem

from rdgeodiff.cli import main
from rdgeodiff.datasets.fragments import choose_fragments, rotatable_bonds, torsion_fragment

DRUGS = (
    "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",  # celecoxib
    "CCOc1ccc(cc1-c1nc2c(C)nn(C)c2c(=O)[nH]1)S(=O)(=O)N1CCN(C)CC1",
    "N/C(Cc1ccc([N+](=O)[O-])cc1)=N\\OC(=O)Cc1ccc(Cl)cc1",
    "CC(C)CC(NC(=O)[C@H](Cc1ccccc1)NC(=O)c1cnccn1)B(O)O",  # bortezomib
    "C[N+](C)(C)CCOP(=O)([O-])OCCCC#C",
)


def _fragments(smiles: str, largest: int = 17) -> dict[str, str]:
    mol = Chem.MolFromSmiles(smiles)
    found = {k: torsion_fragment(mol, b, e, largest) for k, b, e in rotatable_bonds(mol)}
    return {k: f for k, f in found.items() if f is not None}


@pytest.mark.parametrize("smiles", DRUGS)
def test_a_fragment_keeps_its_bond_and_is_a_molecule(smiles):
    found = _fragments(smiles)
    assert len(found) >= 3
    for kind, fragment in found.items():
        mol = Chem.MolFromSmiles(fragment)
        assert Chem.MolToSmiles(mol) == fragment
        assert "." not in fragment and "@" not in fragment and "[H]" not in fragment
        assert not any(a.GetNumRadicalElectrons() for a in mol.GetAtoms())
        assert mol.HasSubstructMatch(Chem.MolFromSmarts(kind))


def test_rings_double_bonds_and_charges_are_not_cut():
    found = _fragments("N/C(Cc1ccc([N+](=O)[O-])cc1)=N\\OC(=O)Cc1ccc(Cl)cc1")
    assert found["CON=C"] == "CC(=O)ON=C(C)N"
    assert found["cc([N+](=O)[O-])c"] == "O=[N+]([O-])c1ccccc1"
    whole = _fragments("CCOCC1CCC2CCCCC2C1")
    assert "COCC1CCC2CCCCC2C1" in whole.values()


def test_cuts_are_capped_so_that_the_functional_group_stays():
    found = _fragments("CCN(CC)S(=O)(=O)c1cccc(-n2cccc2)c1", largest=12)
    assert not any("[SH" in fragment for fragment in found.values())
    assert "CCN(C)S(C)(=O)=O" in found.values()
    # An aromatic nitrogen that loses its substituent keeps its ring aromatic.
    indole = _fragments("CCCCCOCCCCn1cc(C(=O)OC)c2ccccc21", largest=13)
    assert any("[nH]" in fragment for fragment in indole.values())


def test_fragments_that_would_be_too_large_are_left_out():
    mol = Chem.MolFromSmiles("c1ccc2c(c1)ccc1cc(-c3ccc4ccc5ccccc5c4c3)ccc12")
    kinds = list(rotatable_bonds(mol))
    assert len(kinds) == 1
    assert torsion_fragment(mol, *kinds[0][1:]) is None
    assert torsion_fragment(mol, *kinds[0][1:], largest=28) == Chem.MolToSmiles(mol)


def test_every_kind_that_is_not_rare_has_a_fragment():
    series = [f"O=C(Nc1ccc({x})cc1)C{y}" for x in ("F", "Cl", "OC") for y in ("CCO", "CN", "CSC")]
    mols = [Chem.MolFromSmiles(s) for s in series]
    counts: dict[str, int] = {}
    for mol in mols:
        for kind, _, _ in rotatable_bonds(mol):
            counts[kind] = counts.get(kind, 0) + 1
    chosen = choose_fragments(mols, smallest=4)
    there = [Chem.MolFromSmiles(s) for s in chosen]
    assert len(chosen) == len(set(chosen))
    for kind, count in counts.items():
        pattern = Chem.MolFromSmarts(kind)
        assert count < 3 or any(mol.HasSubstructMatch(pattern) for mol in there), kind
    assert choose_fragments(mols, smallest=4) == chosen
    rest = choose_fragments(mols, smallest=4, excluded=chosen[:2])
    assert not set(rest) & set(chosen[:2])


def test_command_writes_smiles_and_counts_what_is_no_molecule(tmp_path, capsys):
    library, out = tmp_path / "library.smi", tmp_path / "fragments.smi"
    library.write_text("\n".join([*DRUGS, *DRUGS, *DRUGS, "c1cc"]) + "\n")
    left_out = tmp_path / "known.smi"
    left_out.write_text("CC(=O)ON=C(C)N\n")
    call = ["dataset", "fragments", str(library), str(out), "--quiet"]
    assert main(call) == 0
    whole = out.read_text().splitlines()
    assert "CC(=O)ON=C(C)N" in whole
    counts = f"{len(whole)} fragments of 16 records, 1 of them not molecules"
    assert counts in capsys.readouterr().out
    assert main([*call, "--exclude", str(left_out)]) == 0
    assert "CC(=O)ON=C(C)N" not in out.read_text().splitlines()
