"""Coordinate maps: chosen atoms end where they were asked to, and impossible wishes are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import batch_of, mol_from, positions_of, tiny_network
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Geometry import Point3D

from rdgeodiff import DiffusionEmbedParameters, EmbedMoleculeDiffusion, EmbedMoleculesDiffusion
from rdgeodiff.chem.coordmap import contradiction
from rdgeodiff.chem.stereo import stereo_tables, wrong_centers
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.diffusion.denoiser import bind
from rdgeodiff.diffusion.holding import hold_positions
from rdgeodiff.diffusion.samplers import SAMPLERS
from rdgeodiff.geometry import HeldAtoms, center, random_rotations

AMIDE = "CC(=O)Nc1ccc(cc1)S(=O)(=O)NCC[C@H](N)C(=O)OC"


@pytest.fixture(scope="module")
def pose() -> Chem.Mol:
    """A molecule somewhere far from the origin, as in a protein."""
    mol = mol_from(AMIDE)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=5) == 0
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() + np.array([40.0, -25.0, 60.0]))
    return mol


def places(mol: Chem.Mol, atoms: list[int]) -> dict[int, tuple[float, float, float]]:
    positions = mol.GetConformer().GetPositions()
    return {k: tuple(positions[k].tolist()) for k in atoms}


@pytest.mark.parametrize("atoms", [[4], [4, 5], list(range(14)), [*range(8), 17, 18, 19]])
def test_held_atoms_end_at_their_places_with_stereo(pose, atoms):
    mol = Chem.Mol(pose)
    ids = EmbedMoleculeDiffusion(mol, 3, randomSeed=3, steps=12, coordMap=places(pose, atoms))
    assert ids == [0, 1, 2]
    wanted = pose.GetConformer().GetPositions()[atoms]
    for positions in positions_of(mol):
        # In the frame of the map: no superposition is needed.
        assert np.linalg.norm(positions[atoms] - wanted, axis=-1).max() < 0.05
        assert not wrong_centers(positions, stereo_tables(mol)).any()
    free = [k for k in range(mol.GetNumAtoms()) if k not in atoms]
    assert np.ptp(positions_of(mol)[:, free], axis=0).max() > 0.5, "the rest did not move"


def test_a_map_on_rdkits_own_object_is_honoured(pose):
    theirs = rdDistGeom.ETKDGv3()
    theirs.randomSeed = 3
    points = {k: Point3D(*p) for k, p in places(pose, [4, 5, 6, 7]).items()}
    theirs.SetCoordMap(points)
    mol, other = Chem.Mol(pose), Chem.Mol(pose)
    # RDKit's text rounds the points; bfloat16 would carry that on to 0.01 Å, guidance to 0.001.
    assert EmbedMoleculeDiffusion(mol, 1, theirs, precision="float32") == [0]
    found = mol.GetConformer().GetPositions()[[4, 5, 6, 7]]
    wanted = pose.GetConformer().GetPositions()[[4, 5, 6, 7]]
    assert np.abs(found - wanted).max() < 0.05
    ours = DiffusionEmbedParameters(randomSeed=3, precision="float32")
    ours.SetCoordMap(points)
    EmbedMoleculeDiffusion(other, 1, DiffusionEmbedParameters.fromJSON(ours.toJSON()))
    assert np.abs(positions_of(mol) - positions_of(other)).max() < 2e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {999: (0, 0, 0)}, "names atom 999, but the molecule has"),
        (lambda m: m | {-1: (0, 0, 0)}, "names atom -1"),
        (lambda m: m | {4: (0, float("nan"), 0)}, "not finite for atom 4"),
        (lambda m: m | {4: (0, float("inf"), 0)}, "not finite for atom 4"),
        (lambda m: m | {4: (0, 0, 0)}, "Å apart; between"),
        (lambda m: m | {5: m[4]}, "puts atoms 4 and 5 0.00 Å apart"),
    ],
)
def test_impossible_maps_raise_and_touch_nothing(pose, change, message):
    mol = Chem.Mol(pose)
    before = mol.ToBinary()
    with pytest.raises(ValueError, match=message):
        EmbedMoleculeDiffusion(mol, 2, coordMap=change(places(pose, [4, 5, 6])))
    assert mol.ToBinary() == before


@pytest.mark.parametrize("value", [{0: (1, 2)}, {0.5: (0, 0, 0)}, {0: "abc"}, [(0, 0, 0)], "x"])
def test_what_is_no_map_raises(pose, value):
    with pytest.raises(TypeError, match="coordMap"):
        EmbedMoleculeDiffusion(Chem.Mol(pose), 1, coordMap=value)


def test_a_mirrored_centre_is_a_contradiction(pose):
    center_atom = int(stereo_tables(pose).centers[0, 0])
    atoms = [n.GetIdx() for n in pose.GetAtomWithIdx(center_atom).GetNeighbors()]
    mirrored = {k: (-x, y, z) for k, (x, y, z) in places(pose, atoms).items()}
    with pytest.raises(ValueError, match="opposite stereo"):
        EmbedMoleculeDiffusion(Chem.Mol(pose), 1, coordMap=mirrored)


@pytest.mark.parametrize("smiles", ["CCCCCCCC", "CC(=O)Nc1ccccc1", "C1CCCCC1C#N", "OP(=O)(O)OC"])
def test_real_conformers_never_contradict_themselves(smiles):
    mol = mol_from(smiles)
    rdDistGeom.EmbedMultipleConfs(mol, 20, randomSeed=1)
    every = np.arange(mol.GetNumAtoms())
    for positions in positions_of(mol):
        assert contradiction(mol, HeldAtoms(every, positions), stereo_tables(mol)) is None


def test_fragments_with_places_stay_there(pose):
    mol = mol_from("OCCO.CCN.[Na+].[Cl-]")
    ids = {a.GetSymbol(): a.GetIdx() for a in mol.GetAtoms()}
    wanted = {0: (5.0, 5.0, 5.0), ids["Na"]: (9.0, 9.0, 9.0)}
    assert EmbedMoleculeDiffusion(mol, 2, randomSeed=1, steps=8, coordMap=wanted) == [0, 1]
    for positions in positions_of(mol):
        for atom, place in wanted.items():
            assert np.abs(positions[atom] - place).max() < 1e-6
        gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)
        fragments = Chem.GetMolFrags(mol)
        for k in (1, 3):  # those without places keep clear of all others
            others = [a for j, f in enumerate(fragments) if j != k for a in f]
            assert gaps[np.ix_(fragments[k], others)].min() > 2.9


def test_one_map_does_not_fit_many_molecules(pose):
    with pytest.raises(ValueError, match="belongs to one molecule"):
        EmbedMoleculesDiffusion([pose, pose], 1, coordMap={0: (0, 0, 0)})


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_lands_on_the_places(sampler):
    batch = batch_of("CCO", "C[C@H](F)Cl")
    held = torch.zeros_like(batch.mask)
    held[0, [0, 2]] = True
    targets = torch.randn(*batch.mask.shape, 3, generator=torch.Generator().manual_seed(1))
    denoiser = hold_positions(bind(tiny_network(), batch), batch, held, targets)
    generator = torch.Generator().manual_seed(2)

    def noise(step: int) -> torch.Tensor:
        return center(torch.randn(*batch.mask.shape, 3, generator=generator), batch.mask)

    x = SAMPLERS[sampler](denoiser, 10 * noise(0), [10.0, 3.0, 1.0, 0.1, 0.01, 0.0], noise=noise)
    got, asked = (x[0, 0] - x[0, 2]).norm(), (targets[0, 0] - targets[0, 2]).norm()
    assert abs(got - asked) < 1e-4


def test_holding_is_equivariant_and_leaves_other_molecules_alone():
    batch = batch_of("CCO", "C[C@H](F)Cl")
    held = torch.zeros_like(batch.mask)
    held[0, :3] = True
    targets = torch.randn(*batch.mask.shape, 3, generator=torch.Generator().manual_seed(1))
    plain = bind(tiny_network(), batch)
    holding = hold_positions(plain, batch, held, targets)
    x = center(torch.randn(*batch.mask.shape, 3), batch.mask)
    sigma = torch.full((2,), 0.5)
    assert (holding(x, sigma)[1] - plain(x, sigma)[1]).abs().max() < 1e-6
    rotation = random_rotations(1)[0]
    turned = holding(x @ rotation.T, sigma)
    assert (turned - holding(x, sigma) @ rotation.T).abs().max() < 1e-4


def test_one_molecule_with_nan_does_not_spoil_the_others():
    batch = batch_of("CCO", "CCO")
    held = torch.zeros_like(batch.mask)
    held[:, :3] = True
    targets = torch.randn(*batch.mask.shape, 3)

    def poisoned(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[0, 1] = torch.nan
        return x

    out = hold_positions(poisoned, batch, held, targets)(torch.randn(2, 9, 3), torch.ones(2))
    assert torch.isfinite(out[1]).all()


def test_a_held_atom_off_its_place_is_a_rejected_sample(pose):
    mol, atoms = Chem.Mol(pose), np.array([4, 5, 6, 7])
    positions = positions_of(mol)[0]
    for off, cause in ((0.02, None), (0.2, "COORD_MAP")):
        wanted = positions[atoms].copy()
        wanted[0, 0] += off
        judge = Judge(mol, stereo_tables(mol), held=HeldAtoms(atoms, wanted))
        assert judge.judge(positions).cause == cause
