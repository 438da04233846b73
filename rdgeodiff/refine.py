"""Existing conformers made better: noised to a low σ and denoised from there.

Cleans up docking poses, force-field geometries and crystal coordinates without leaving their basin:
the larger σ, the further a conformer may move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem

from rdgeodiff import opening
from rdgeodiff.chem.conformers import set_property
from rdgeodiff.chem.validate import describe
from rdgeodiff.embed import Params, run_rounds, settings_of
from rdgeodiff.geometry import HeldAtoms
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause, UnusableMoleculeError
from rdgeodiff.task import Settled, Task

# Every conformer is refined, in its place.
_WITHOUT_EFFECT: dict[str, Any] = {"clearConfs": False, "pruneRmsThresh": -1.0, "oversampling": 1}


def RefineConformersDiffusion(
    mol: Chem.Mol,
    sigma: float = 0.3,
    confIds: Sequence[int] | None = None,
    params: Params = None,
    **overrides: Any,
) -> list[int]:
    """Noise conformers of `mol` to σ and denoise them (the reverse process from σ on).

    Each refined conformer replaces the old one under its id and is superposed on it; one that could
    not be refined stays as it was. Every refined conformer meets the promises of
    `EmbedMoleculeDiffusion`, specified stereo included, whatever the old one looked like.

    Args:
        mol: sanitised, with conformers; only their positions change. Hydrogens that are not
            explicit are added for the model's sake and left out again.
        sigma: noise level in Å. 0.1 mends bonds and angles, 0.3 also rings and contacts, above 1
            the conformer turns into another one.
        confIds: which conformers; all by default.
        params: as in `EmbedMoleculeDiffusion`; `clearConfs`, `pruneRmsThresh` and `oversampling`
            have no effect. A `coordMap` holds atoms at its places, and then sets the frame.
        **overrides: single parameters by name.

    Returns:
        ids of the conformers that were refined.

    Raises:
        TypeError: not a Mol, or an unknown keyword.
        ValueError: a molecule that cannot be attempted or has no conformer, an unknown conformer
            id, σ not above 0 or beyond the model's highest noise level, an impossible `coordMap`.
    """
    settings = settings_of(params, overrides).updated(**_WITHOUT_EFFECT)
    if not isinstance(mol, Chem.Mol):
        raise TypeError(f"mol must be an RDKit Mol, not {type(mol).__name__}")
    task = RefineTask(mol, 0, settings, confIds)
    _run([task], settings, sigma, params)
    return task.result.conf_ids


def RefineMoleculesDiffusion(
    mols: Iterable[Chem.Mol | None],
    sigma: float = 0.3,
    params: Params = None,
    **overrides: Any,
) -> list[EmbedResult]:
    """`RefineConformersDiffusion` for all conformers of many molecules in one stream of batches.

    Returns:
        one result per molecule, in order. `conf_ids` were refined, the others stay as they were and
        are counted in `failures`. A molecule that cannot be attempted, or has no conformer, is
        reported in its result and stops nothing.

    Raises:
        TypeError: a single Mol instead of several, or an unknown keyword.
        ValueError: σ out of range, or a `coordMap`.
    """
    if isinstance(mols, Chem.Mol | str):
        raise TypeError("mols must be several molecules; for one use RefineConformersDiffusion")
    settings = settings_of(params, overrides).updated(**_WITHOUT_EFFECT)
    if settings.coordMap:
        raise ValueError("coordMap belongs to one molecule: use RefineConformersDiffusion")
    results: list[EmbedResult] = []
    tasks = []
    for row, mol in enumerate(mols):
        try:
            task = RefineTask(mol, row, settings)
        except UnusableMoleculeError as error:
            count = mol.GetNumConformers() if isinstance(mol, Chem.Mol) else 0
            lost = {error.cause.value: count} if count else {}
            results.append(EmbedResult(requested=count, error=str(error), failures=lost))
        else:
            tasks.append(task)
            results.append(task.result)
    _run(tasks, settings, sigma, params)
    return results


class RefineTask(Task):
    """A molecule whose own conformers are what the samples start from.

    Args:
        mol: the user's molecule; untouched until `deliver`.
        row: its index in the call.
        settings: parameters of the call.
        conf_ids: which conformers; None for all.

    Raises:
        UnusableMoleculeError: the molecule cannot be attempted, has no conformer, or not these.
    """

    def __init__(
        self,
        mol: Chem.Mol | None,
        row: int,
        settings: DiffusionEmbedParameters,
        conf_ids: Sequence[int] | None = None,
    ) -> None:
        there = [c.GetId() for c in mol.GetConformers()] if isinstance(mol, Chem.Mol) else []
        self.ids = there if conf_ids is None else [int(k) for k in conf_ids]
        super().__init__(mol, row, len(self.ids), settings)
        unknown = sorted(set(self.ids) - set(there))
        if unknown or not there:
            which = f"no conformer {unknown[0]}" if unknown else "no conformers to refine"
            reason = f"{describe(mol, row)} has {which}"
            raise UnusableMoleculeError(reason, FailureCause.INVALID_INPUT)
        bare = self.full.GetNumAtoms() > self.mol.GetNumAtoms()
        positioned = Chem.AddHs(self.mol, addCoords=True) if bare else self.mol
        self.starts = [positioned.GetConformer(k).GetPositions() for k in self.ids]
        for conformer, start in enumerate(self.starts):
            if not np.isfinite(start).all():
                self.causes[conformer] = FailureCause.INVALID_INPUT

    def start(self, conformer: int, fragment: int) -> np.ndarray:
        """Positions of a fragment in the old conformer."""
        return self.starts[conformer][self.fragments[fragment].atoms]

    def settle(
        self,
        settings: DiffusionEmbedParameters,
        all_or_nothing: bool,
        deadline: float | None = None,
    ) -> None:
        """Relax what was accepted and lay it over the old conformers; writes nothing."""
        complete, failures = self.completed()
        refined = self.relaxed(complete, settings, deadline)
        positions = []
        for index, conformer in zip(complete, refined, strict=True):
            whole = self.starts[index].copy()
            for fragment, part in conformer.parts.items():
                atoms = self.fragments[fragment].atoms
                onto = HeldAtoms(np.arange(len(atoms)), whole[atoms])
                # Held atoms have set the frame already; else a conformer stays where it was.
                whole[atoms] = onto.place(part)[0] if self.held[fragment] is None else part
            positions.append(whole)
        self.refined_ids = [self.ids[index] for index in complete]
        self.settled = Settled(
            positions,
            [c.properties(k, settings.relax) for k, c in zip(complete, refined, strict=True)],
            failures,
            Counter(c.cause.value for c in refined if c.cause is not None),
        )

    def write(self, done: Settled) -> list[int]:
        """Replace the positions of the refined conformers."""
        for conf_id, whole, properties in zip(
            self.refined_ids, done.positions, done.properties, strict=True
        ):
            old = self.mol.GetConformer(conf_id)
            old.SetPositions(np.ascontiguousarray(whole[: self.mol.GetNumAtoms()]))
            old.Set3D(True)
            for name, value in properties.items():
                set_property(old, name, value)
        return self.refined_ids


def _run(
    tasks: Sequence[Task], settings: DiffusionEmbedParameters, sigma: float, params: Params
) -> None:
    if not tasks:
        return
    run_rounds(tasks, settings, pipeline=opening.open_source(settings).starting_at(sigma))
    if settings.trackFailures and isinstance(params, DiffusionEmbedParameters):
        counts: Counter[str] = Counter()
        for task in tasks:
            counts.update(task.result.rejections)
        params.record_failures(dict(counts))
