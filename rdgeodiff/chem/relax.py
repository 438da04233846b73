"""Force-field relaxation of conformers: MMFF94s, MMFF94 or UFF as RDKit has them, over threads.

The Mol a caller hands over is never touched. Every RDKit call that takes time here lets go of the
interpreter's lock, so several molecules can be relaxed from several Python threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from rdgeodiff.chem.conformers import ENERGY, FORCE_FIELD, INDEX, RELAXED, Property, as_conformer
from rdgeodiff.chem.fragments import Fragment
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.geometry import HeldAtoms
from rdgeodiff.parameters import FORCE_FIELDS
from rdgeodiff.results import FailureCause

MAX_STEPS = 2000  # of the minimiser, per conformer; drug-size molecules need some hundred
SETTLING_STEPS = 30  # enough for bonds and angles


class NoForceFieldError(ValueError):
    """The force field has no parameters for a molecule."""


@dataclass(frozen=True)
class Relaxed:
    """Conformers of one molecule after relaxation.

    Attributes:
        positions: arrays (N, 3) float64 in Å, in the order they came.
        energies: (C,) float64 in kcal/mol.
        converged: (C,) bool, False where the steps did not suffice.
    """

    positions: list[np.ndarray]
    energies: np.ndarray
    converged: np.ndarray


@dataclass(frozen=True)
class RelaxedParts:
    """A conformer, fragment by fragment, after an attempt to relax it.

    Attributes:
        parts: fragment → positions (N, 3) in Å; those that came in unless `energy` is set.
        energy: sum over the fragments in kcal/mol, None if the conformer is not relaxed.
        cause: why it is not, or NOT_CONVERGED where it is relaxed as far as it went.
    """

    parts: dict[int, np.ndarray]
    energy: float | None = None
    cause: FailureCause | None = None

    def properties(self, index: int, force_field: str) -> dict[str, Property]:
        """Of the delivered conformer; those on relaxation only where it was asked for."""
        found: dict[str, Property] = {INDEX: index}
        if force_field:
            found[RELAXED] = "yes" if self.cause is None else self.cause.value
        if self.energy is not None:
            found |= {ENERGY: self.energy, FORCE_FIELD: force_field}
        return found


def has_parameters(mol: Chem.Mol, force_field: str) -> bool:
    """Whether the force field knows every atom of `mol`.

    RDKit types radicals like their closed-shell relatives; the result would mean nothing, so they
    count as unknown.
    """
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return False
    copy = Chem.Mol(mol)
    with rdBase.BlockLogs():
        if force_field == "UFF":
            return bool(rdForceFieldHelpers.UFFHasAllMoleculeParams(copy))
        return bool(rdForceFieldHelpers.MMFFHasAllMoleculeParams(copy))


def relax_positions(
    mol: Chem.Mol,
    positions: Sequence[np.ndarray],
    force_field: str = "MMFF94s",
    threads: int = 1,
    fixed: Sequence[int] = (),
    max_steps: int | None = None,
) -> Relaxed:
    """Minimise the energy of each conformer.

    Args:
        mol: sanitised Mol with explicit hydrogens; not changed.
        positions: arrays (N, 3) in Å; not changed.
        force_field: one of `FORCE_FIELDS`.
        threads: 0 for all. The result does not depend on it.
        fixed: indices of atoms that stay exactly where they are.
        max_steps: of the minimiser, per conformer; by default `MAX_STEPS`.

    Raises:
        NoForceFieldError: atoms without parameters, or radicals.
        ValueError: another force field.
    """
    if force_field not in FORCE_FIELDS:
        raise ValueError(f"unknown force field {force_field!r}; known: {', '.join(FORCE_FIELDS)}")
    if not has_parameters(mol, force_field):
        raise NoForceFieldError(
            f"{force_field} has no parameters for {Chem.MolToSmiles(Chem.Mol(mol))}"
        )
    if not len(positions):
        return Relaxed([], np.zeros(0), np.zeros(0, bool))
    steps = MAX_STEPS if max_steps is None else max_steps
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for p in positions:
        copy.AddConformer(as_conformer(p), assignId=True)
    if len(fixed):
        found = _with_fixed_atoms(copy, force_field, threads, fixed, steps)
    elif force_field == "UFF":
        found = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(
            copy, numThreads=threads, maxIters=steps
        )
    else:
        found = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
            copy, numThreads=threads, maxIters=steps, mmffVariant=force_field
        )
    status = np.array([code for code, _ in found])
    if (status < 0).any():
        raise NoForceFieldError(
            f"{force_field} cannot be set up for {Chem.MolToSmiles(Chem.Mol(mol))}"
        )
    return Relaxed(
        [c.GetPositions() for c in copy.GetConformers()],
        np.array([energy for _, energy in found], float),
        status == 0,
    )


def relax_parts(
    fragments: Sequence[Fragment],
    judges: Mapping[int, Judge],
    conformers: Sequence[Mapping[int, np.ndarray]],
    force_field: str,
    threads: int = 1,
    held: Sequence[HeldAtoms | None] | None = None,
) -> list[RelaxedParts]:
    """Relax complete conformers, each fragment alone: places between fragments have no meaning.

    A conformer with a fragment that cannot be relaxed, or that a judge rejects afterwards, comes
    back as it was, with the cause.

    Args:
        fragments: of the molecule.
        judges: fragment → its judge. A fragment without one is an atom on its own: energy 0.
        conformers: fragment → accepted positions (N, 3) in Å, complete.
        force_field: one of `FORCE_FIELDS`.
        threads: 0 for all.
        held: atoms that stay where they are, one entry a fragment.
    """
    relaxed = [dict(parts) for parts in conformers]
    energies = np.zeros(len(conformers))
    causes: list[FailureCause | None] = [None] * len(conformers)
    for k, judge in judges.items():
        own = held[k] if held else None
        fixed = () if own is None else own.atoms.tolist()
        try:
            found = relax_positions(
                fragments[k].mol, [parts[k] for parts in conformers], force_field, threads, fixed
            )
        except NoForceFieldError:
            cause = FailureCause.NO_PARAMETERS
            return [RelaxedParts(dict(parts), None, cause) for parts in conformers]
        energies += found.energies
        for row, positions in enumerate(found.positions):
            verdict = judge.judge(positions)
            if verdict.positions is not None:
                relaxed[row][k] = verdict.positions
            elif causes[row] in (None, FailureCause.NOT_CONVERGED):
                causes[row] = FailureCause(str(verdict.cause))
            if causes[row] is None and not found.converged[row]:
                causes[row] = FailureCause.NOT_CONVERGED
    results = []
    for before, after, energy, why in zip(conformers, relaxed, energies, causes, strict=True):
        if why in (None, FailureCause.NOT_CONVERGED):
            results.append(RelaxedParts(after, float(energy), why))
        else:
            results.append(RelaxedParts(dict(before), None, why))
    return results


def settled_energies(
    fragments: Sequence[Fragment],
    counted: Collection[int],
    conformers: Sequence[Mapping[int, np.ndarray]],
    threads: int = 1,
    held: Sequence[HeldAtoms | None] | None = None,
) -> np.ndarray | None:
    """Energies (C,) in kcal/mol of complete conformers after a few steps of MMFF94s on a copy.

    As they come, small errors of bonds and angles hide what the torsions cost. Molecules MMFF94s
    does not know get UFF's energies; None where that does not know them either.

    Args:
        fragments, conformers, threads, held: as in `relax_parts`.
        counted: indices of the fragments that are not an atom on its own.
    """
    for force_field in ("MMFF94s", "UFF"):
        energies = np.zeros(len(conformers))
        try:
            for k in counted:
                own = held[k] if held else None
                energies += relax_positions(
                    fragments[k].mol,
                    [parts[k] for parts in conformers],
                    force_field,
                    threads,
                    () if own is None else own.atoms.tolist(),
                    SETTLING_STEPS,
                ).energies
        except NoForceFieldError:
            continue
        return energies
    return None


def _with_fixed_atoms(
    mol: Chem.Mol, force_field: str, threads: int, fixed: Sequence[int], max_steps: int
) -> list[tuple[int, float]]:
    """Minimise all conformers of `mol` in place; (not converged, energy) of each.

    A field of its own for each conformer: given more than one thread, RDKit copies the field it is
    handed and loses the fixed atoms. `OptimizeMoleculeConfs` is used, and not `Minimize`, as the
    latter keeps the interpreter's lock.
    """
    properties: Any = None
    if force_field != "UFF":
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant=force_field)

    def minimise(conf_id: int) -> tuple[int, float]:
        single = Chem.Mol(mol, confId=conf_id)
        if properties is None:
            field = rdForceFieldHelpers.UFFGetMoleculeForceField(single)
        else:
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(single, properties)
        field.Initialize()
        for atom in fixed:
            field.AddFixedPoint(int(atom))
        [result] = rdForceFieldHelpers.OptimizeMoleculeConfs(
            single, field, numThreads=1, maxIters=max_steps
        )
        mol.GetConformer(conf_id).SetPositions(single.GetConformer(conf_id).GetPositions())
        return result

    workers = threads if threads > 0 else max(1, (os.cpu_count() or 1) + threads)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(minimise, range(mol.GetNumConformers())))
