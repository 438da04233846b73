"""Heavy atoms from one network, all atoms from another: still one sample for each request."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from helpers import embedded, graph_of, positions_of, tiny_network

from rdgeodiff.architectures import FieldProcess
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.geometry import HeldAtoms, align
from rdgeodiff.graph import MolBatch
from rdgeodiff.heavy_first import HeavyFirst
from rdgeodiff.model_file import Model
from rdgeodiff.pipeline import Pipeline
from rdgeodiff.results import FailureCause
from rdgeodiff.samples import SampleRequest
from rdgeodiff.sampling import Sampling
from rdgeodiff.skeleton import skeleton

SMILES = ("C[C@H](O)[C@@H](F)Cl", "O", "CCO", "c1ccccc1O", "CC(=O)Nc1ccccc1", "FC(F)(F)F")
GRAPHS = [graph_of(s) for s in SMILES]
LEVELS = (0.5, 0.1)


class Recorded(FieldProcess):
    """A process that notes the atoms of each batch, and spoils what `spoil` names."""

    def __init__(self, spoil: int = -1) -> None:
        super().__init__()
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "spoil", spoil)

    def bind(self, network, graphs: MolBatch, sampler: str, bf16: bool = False) -> Denoiser:
        inner = super().bind(network, graphs, sampler, bf16)
        self.seen.append(graphs.n_atoms.tolist())

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            found = inner(x, sigma)
            found[graphs.n_atoms == self.spoil] = torch.nan
            return found

        return denoise


def staged(batch_pairs: int = 0, spoil: int = -1, spoil_heavy: int = -1) -> HeavyFirst:
    heavy = Model("heavy", tiny_network(1), Sampling(steps=5), {}, Recorded(spoil_heavy))
    whole = Model("whole", tiny_network(2), Sampling(steps=5), {}, Recorded(spoil))
    first, last = (Pipeline(m, "cpu", batch_pairs, precision="float32") for m in (heavy, whole))
    return HeavyFirst(first, last.on_levels(LEVELS), last)


def seen(source: HeavyFirst, name: str) -> list[int]:
    return sorted(n for batch in getattr(source, name)._model.process.seen for n in batch)


def requests(count: int = 2, **more) -> list[SampleRequest]:
    return [
        SampleRequest(graph, row, conformer, 0, 11, **more)
        for row, graph in enumerate(GRAPHS)
        for conformer in range(count)
    ]


def drawn(source, asked, **how):
    found = {}

    def keep(request, result):
        assert any(request is one for one in asked), "not a request that was made"
        assert (request.row, request.conformer) not in found, "reported twice"
        found[request.row, request.conformer] = result

    source.sample(asked, on_result=keep, **how)
    assert len(found) == len(asked), "a request was lost"
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.abs(a[k] - b[k]).max() < 1e-4 for k in a)


@pytest.mark.parametrize("guided", [False, True])
def test_packing_and_order_make_no_difference(guided, monkeypatch):
    asked = requests()
    plain = drawn(staged(), asked, guided=guided)
    assert same(plain, drawn(staged(batch_pairs=1), asked, guided=guided))
    assert same(plain, drawn(staged(batch_pairs=400), asked[::-1], guided=guided))
    alone = drawn(staged(), [r for r in asked if r.row == 4 and r.conformer == 1], guided=guided)
    assert same(alone, {k: plain[k] for k in alone})
    monkeypatch.setattr("rdgeodiff.heavy_first.PART", 0)  # a part for each request
    assert same(plain, drawn(staged(), asked, guided=guided))


def test_hydrogens_are_drawn_at_the_last_levels_only():
    source = staged()
    drawn(source, requests(1))
    sizes = [len(skeleton(g).atoms) if skeleton(g) else None for g in GRAPHS]
    assert sizes == [6, None, None, 7, 10, None]
    assert seen(source, "_heavy") == sorted(n for n in sizes if n)
    assert seen(source, "_last") == sorted(g.n_atoms for g in GRAPHS)  # and the three others' own


def test_conformers_of_a_molecule_differ_and_other_seeds_give_others():
    asked = requests()
    found = drawn(staged(), asked)
    assert np.abs(found[3, 0] - found[3, 1]).max() > 0.1
    other = [SampleRequest(r.graph, r.row, r.conformer, 0, 12) for r in asked]
    assert np.abs(drawn(staged(), other)[3, 0] - found[3, 0]).max() > 0.1


def test_the_second_stage_has_noise_of_its_own():
    """Were it the noise of the first, a skeleton would be pushed where it came from."""
    first, second = [], []

    class Noted(Pipeline):
        def sample(self, requests, **how):
            (first if self._model.name == "heavy" else second).extend(requests)
            super().sample(requests, **how)

    source = staged()
    for name in ("_heavy", "_last"):
        getattr(source, name).__class__ = Noted
    drawn(source, requests(1)[3:5])
    assert {r.seed for r in first} == {11} and 11 not in {r.seed for r in second}
    assert all(r.start is not None for r in second)


def test_exact_denoisers_land_on_their_targets():
    """Heavy atoms arrive where the first network leads, hydrogens where the second does."""
    mol = embedded("CC(=O)Nc1ccccc1")
    target = torch.from_numpy(positions_of(mol)[0]).float()
    own = skeleton(GRAPHS[4])

    class Exact(FieldProcess):
        def __init__(self, goal):
            super().__init__()
            object.__setattr__(self, "goal", goal - goal.mean(0))

        def bind(self, network, graphs, sampler, bf16=False):
            goal = self.goal.expand(len(graphs), -1, -1)
            return lambda x, sigma: align(goal, x)

    heavy, whole = (
        Pipeline(
            Model("exact", tiny_network(), Sampling("ddim", steps=6), {}, Exact(goal)),
            precision="float32",
        )
        for goal in (target[own.atoms], target)
    )
    source = HeavyFirst(heavy, whole.on_levels(LEVELS), whole)
    for sample in drawn(source, [r for r in requests(3) if r.row == 4]).values():
        x = torch.from_numpy(sample).float().unsqueeze(0)
        wanted = (target - target.mean(0)).unsqueeze(0)
        assert (align(x - x.mean(1), wanted) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("stage", ["spoil", "spoil_heavy"])
def test_what_fails_in_either_stage_is_reported_and_harms_nobody(stage):
    asked = requests()
    plain = drawn(staged(), asked)
    bad = GRAPHS[3].n_atoms if stage == "spoil" else len(skeleton(GRAPHS[3]).atoms)
    found = drawn(staged(**{stage: bad}), asked)
    for key, result in found.items():
        if key[0] == 3:
            assert result is FailureCause.NONFINITE
        else:
            assert np.abs(result - plain[key]).max() < 1e-4


def test_when_the_time_is_up_everything_is_reported():
    found = drawn(staged(), requests(), deadline=time.monotonic() - 1)
    assert set(found.values()) == {FailureCause.EXCEEDED_TIMEOUT}


def test_atoms_with_places_and_starts_are_drawn_whole():
    held = HeldAtoms(np.array([0, 1, 2]), np.eye(3))
    start = np.random.default_rng(0).standard_normal((GRAPHS[3].n_atoms, 3))
    asked = [
        SampleRequest(GRAPHS[3], 3, 0, 0, 11, held=held),
        SampleRequest(GRAPHS[3], 3, 1, 0, 11, start=start),
    ]
    source = staged()
    found = drawn(source, asked)
    assert seen(source, "_heavy") == []
    assert same(found, drawn(source._whole, asked))
    assert source.starting_at(0.3).sigmas == source._whole.starting_at(0.3).sigmas
