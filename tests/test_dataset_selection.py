"""What a recipe may ask for, which conformers it keeps, and the seeds that they come from."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import embedded, mol_from, positions_of

import rdgeodiff.embed
from rdgeodiff.chem.xtb import BondGraph
from rdgeodiff.datasets.recipe import Recipe
from rdgeodiff.datasets.seeds import DiffusionSeeds, EtkdgSeeds
from rdgeodiff.datasets.selection import boltzmann_weights, distinct, spread


def test_a_recipe_without_xtb_takes_nothing_of_it() -> None:
    with pytest.raises(ValueError, match="xtb's"):
        Recipe(method="mmff94s", gfnff=True)


@pytest.mark.parametrize("other", [{"gfnff": True}, {"method": "mmff94s"}, {"method": "gfnff"}])
def test_straight_and_a_force_field_contradict_each_other(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="straight"):
        Recipe(straight=True, **other)


def test_the_same_conformer_is_kept_once() -> None:
    mol = embedded("CCCCO", 6)
    positions = list(positions_of(mol))
    turned = positions[0] @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) + 3.0
    energies = np.array([1.0, 1.01, 3.0])
    assert distinct(mol, [positions[0], turned, positions[1]], energies) == [0, 2]
    # Another energy is another conformer, wherever its heavy atoms are.
    assert distinct(mol, [positions[0], turned], np.array([1.0, 1.2])) == [0, 1]
    # The lower of two equal ones stays.
    assert distinct(mol, [positions[0], turned], np.array([1.03, 1.0])) == [1]


def test_spread_goes_to_the_furthest_first() -> None:
    mol = embedded("CCCCCCO", 5)
    positions = list(positions_of(mol))
    order = spread(mol, [positions[0], positions[0] + 0.01, *positions[1:]])
    assert sorted(order) == list(range(6)) and order[0] == 0 and order[-1] == 1
    assert spread(mol, []) == []


def test_boltzmann_weights() -> None:
    # RT ln 10 at 298.15 K is 1.3643 kcal/mol.
    assert boltzmann_weights(np.array([-5.0, -5.0 + 1.36427])) == pytest.approx(
        [10 / 11, 1 / 11], rel=1e-4
    )
    assert boltzmann_weights(np.zeros(0)).shape == (0,)


def test_bonds_broken_and_made() -> None:
    mol = embedded("C1C2CC1C2", 1)
    positions, bonds = positions_of(mol)[0], BondGraph(mol)
    assert bonds.holds(positions)
    away, near = positions.copy(), positions.copy()
    away[-1] *= 2.0
    near[-1] = near[0] + (0.9, 0.9, 0.0)
    assert not bonds.holds(away) and not bonds.holds(near)


def test_seeds_depend_on_molecule_and_seed_alone() -> None:
    mol = mol_from("CCCO")
    one, again, other = (EtkdgSeeds().draw(mol, 3, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])
    assert EtkdgSeeds().draw(mol, 2, 2**31 - 1)


def test_seeds_from_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def draw(mol, count, **options):
        calls.append((count, options))
        for conformer in embedded("CO", count).GetConformers():
            mol.AddConformer(conformer, assignId=True)

    monkeypatch.setattr(rdgeodiff.embed, "EmbedMoleculeDiffusion", draw)
    mol = mol_from("CO")
    assert len(DiffusionSeeds("mine.json").draw(mol, 2, 9)) == 2
    assert calls == [(2, {"randomSeed": 9, "model": "mine.json"})] and not mol.GetNumConformers()
