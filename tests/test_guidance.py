"""Steering towards the demanded handedness: wrong centres turn, right ones are left alone."""

from __future__ import annotations

import pytest
import torch
from helpers import batch_of, embedded, largest_difference, positions_of

from rdgeodiff.diffusion.guidance import HIGHEST_SIGMA, LOWEST_SIGMA, guide_stereo, mend_volumes
from rdgeodiff.geometry import center, random_rotations, signed_volumes

CHIRAL = ("C[C@H](N)C(=O)O", "C[C@@H](O)[C@H](F)Cl", "C[S@](=O)CC", "C[C@H]1CCCO1")
MIRROR = torch.tensor([1.0, 1.0, -1.0])


def _case():
    """Right conformers of all CHIRAL, centred, in one padded batch."""
    batch = batch_of(*CHIRAL)
    x = torch.zeros(*batch.mask.shape, 3)
    for k, smiles in enumerate(CHIRAL):
        positions = torch.from_numpy(positions_of(embedded(smiles))[0]).float()
        x[k, : len(positions)] = positions
    return batch, center(x, batch.mask)


def _all_right(x, batch) -> torch.Tensor:
    volumes = signed_volumes(x, batch.centers) * batch.parities
    return ((volumes > 0) | (batch.parities == 0)).all(1)


def test_right_conformers_are_left_alone():
    batch, x = _case()
    assert _all_right(x, batch).all()
    assert torch.equal(mend_volumes(x, batch), x)


def test_mirror_images_are_mended():
    batch, x = _case()
    mirrored = x * MIRROR
    assert not _all_right(mirrored, batch).any()
    mended = mend_volumes(mirrored, batch)
    assert _all_right(mended, batch).all()
    assert (mended[~batch.mask] == 0).all()
    assert largest_difference(mended, mirrored) < 3.0  # atoms move by a bond's length, not across


def test_one_wrong_molecule_does_not_move_its_mates():
    batch, x = _case()
    x[1] *= MIRROR
    mended = mend_volumes(x, batch)
    assert _all_right(mended, batch).all()
    assert torch.equal(mended[[0, 2, 3]], x[[0, 2, 3]])


@pytest.mark.parametrize("blur", [0.0, 0.3, 0.6, 1.0])
def test_mending_turns_with_the_molecule(blur):
    batch, x = _case()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        wrong = x * MIRROR + blur * torch.randn(x.shape, generator=generator)
        turn = random_rotations(len(CHIRAL), generator)
        mended = mend_volumes(wrong, batch)
        moved = mend_volumes(wrong @ turn.mT, batch)
        assert largest_difference(moved, mended @ turn.mT) < 1e-4


@pytest.mark.parametrize(
    ("sigma", "acts"),
    [(2 * HIGHEST_SIGMA, False), (1.0, True), (0.1, True), (0.5 * LOWEST_SIGMA, False)],
)
def test_guidance_acts_between_two_noise_levels(sigma, acts):
    batch, x = _case()
    wrong = x * MIRROR
    guided = guide_stereo(lambda y, s: wrong, batch)(wrong, torch.full((len(CHIRAL),), sigma))
    assert _all_right(guided, batch).all() == acts
    assert torch.equal(guided, wrong) != acts
    assert largest_difference(guided.sum(1), torch.zeros(len(CHIRAL), 3)) < 1e-4


def test_molecules_without_centres_pass_through():
    batch = batch_of("CCO", "O")
    x = torch.randn(*batch.mask.shape, 3)
    assert torch.equal(mend_volumes(x, batch), x)
