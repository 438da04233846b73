"""One molecule on its way through an embedding call: what it needs, has, and lost, with causes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from rdgeodiff.chem import coordmap
from rdgeodiff.chem.conformers import (
    Property,
    prune,
    with_hydrogens,
    write_conformers,
)
from rdgeodiff.chem.diatomics import trivial_conformer
from rdgeodiff.chem.featurize import UnsupportedAtomError, featurize
from rdgeodiff.chem.fragments import assemble, split
from rdgeodiff.chem.relax import RelaxedParts, relax_parts, settled_energies
from rdgeodiff.chem.representatives import representatives
from rdgeodiff.chem.stereo import stereo_tables, unassigned_stereo
from rdgeodiff.chem.validate import describe, fault
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause, UnusableMoleculeError

# Drawing once more cannot help against these.
FINAL = {
    FailureCause.EXCEEDED_TIMEOUT,
    FailureCause.OUT_OF_MEMORY,
    FailureCause.TOO_LARGE,
    FailureCause.INVALID_INPUT,
}

# Against these it helps to shake a sample and let it settle again: a hydrogen between two places,
# say. What is right about the sample is kept.
MENDABLE = {FailureCause.BOND_LENGTH, FailureCause.BOND_ANGLE}


@dataclass(frozen=True)
class Settled:
    """What a task will deliver: positions (M, 3) in Å, properties of each, and the losses."""

    positions: list[np.ndarray]
    properties: list[dict[str, Property]]
    failures: Counter[str]
    unrelaxed: Counter[str]


class Task:
    """Fragments, graphs and judges of a molecule, the samples accepted so far, and their count.

    Args:
        mol: the user's molecule; untouched until `deliver`.
        row: its index in the call.
        count: conformers wanted.
        settings: parameters of the call.

    Raises:
        UnusableMoleculeError: the molecule cannot be attempted.
    """

    def __init__(
        self, mol: Chem.Mol | None, row: int, count: int, settings: DiffusionEmbedParameters
    ) -> None:
        name = describe(mol, row)
        if not isinstance(mol, Chem.Mol):
            found = "None" if mol is None else type(mol).__name__
            reason = f"{name} is not an RDKit Mol but {found}"
            raise UnusableMoleculeError(reason, FailureCause.INVALID_INPUT)
        wrong = fault(mol)
        if wrong is not None:
            raise UnusableMoleculeError(f"{name}: {wrong[1]}", FailureCause(wrong[0]))
        open_stereo = unassigned_stereo(mol) if settings.strictStereo else None
        if open_stereo:
            raise UnusableMoleculeError(
                f"{name}: {open_stereo} has no specified stereo and strictStereo is set",
                FailureCause.UNASSIGNED_STEREO,
            )
        self.mol, self.row = mol, row
        self.result = EmbedResult(requested=count)
        try:
            # A copy: what RDKit computes is stored on a Mol, and the user's is not ours.
            self.full = with_hydrogens(Chem.Mol(mol, True))
            self.fragments = split(self.full, separately=settings.embedFragmentsSeparately)
            tables = [stereo_tables(f.mol) for f in self.fragments]
            # An atom on its own (a counter-ion of any element) and diatomics need no network.
            self.graphs = {
                k: featurize(f.mol, tables[k])
                for k, f in enumerate(self.fragments)
                if trivial_conformer(f.mol) is None
            }
            held = coordmap.held_atoms(mol, settings.coordMap)
            self.held = [coordmap.within(held, f.atoms) for f in self.fragments]
            for fragment, own, table in zip(self.fragments, self.held, tables, strict=True):
                against = own and coordmap.contradiction(fragment.mol, own, table)
                if against:
                    raise ValueError(against)
            self.judges = {
                k: Judge(self.fragments[k].mol, tables[k], settings.enforceChirality, self.held[k])
                for k in self.graphs
            }
        except UnsupportedAtomError as error:
            reason = f"{name}: {error}"
            raise UnusableMoleculeError(reason, FailureCause.UNSUPPORTED_ATOM) from error
        except (RuntimeError, ValueError) as error:
            raise UnusableMoleculeError(f"{name}: {error}", FailureCause.INVALID_INPUT) from error
        alone = {}
        for k, own in enumerate(self.held):
            if k not in self.graphs:
                known = trivial_conformer(self.fragments[k].mol)
                assert known is not None
                alone[k] = known if own is None else own.place(known)[0]
        # With oversampling more conformers are drawn than are wanted.
        self.wanted, drawn = count, count * settings.oversampling
        self.parts: list[dict[int, np.ndarray]] = [dict(alone) for _ in range(drawn)]
        self.causes: list[FailureCause | None] = [None] * drawn
        self.rejections: Counter[str] = Counter()
        self._faulty: dict[tuple[int, int], np.ndarray] = {}
        self.settled: Settled | None = None

    def missing(self) -> list[tuple[int, int]]:
        """(conformer, fragment) pairs still to be drawn; none once there are as many as wanted."""
        if len(self._complete()) >= self.wanted:
            return []
        return [
            (conformer, fragment)
            for conformer, done in enumerate(self.parts)
            if self.causes[conformer] not in FINAL
            for fragment in range(len(self.fragments))
            if fragment not in done
        ]

    def start(self, conformer: int, fragment: int) -> np.ndarray | None:
        """Positions (N, 3) in Å to draw from instead of pure noise."""
        return None

    def mendable(self, conformer: int, fragment: int) -> np.ndarray | None:
        """Positions (N, 3) in Å of the last sample, if they are worth mending.

        Only what was drawn anew is: what could not be mended is given up. Neither are conformers
        that start from given positions or hold them.
        """
        return self._faulty.get((conformer, fragment))

    def take(
        self, conformer: int, fragment: int, attempt: int, sample: np.ndarray | FailureCause
    ) -> None:
        """Judge a sample and file it."""
        was_mended = self._faulty.pop((conformer, fragment), None) is not None
        drawn = not isinstance(sample, FailureCause) or sample == FailureCause.NONFINITE
        if attempt == 0 and drawn:
            self.result.raw_samples += 1
        if isinstance(sample, FailureCause):
            cause: FailureCause | None = sample
        else:
            verdict = self.judges[fragment].judge(sample)
            self.result.raw_stereo_ok += attempt == 0 and verdict.stereo_ok
            cause = None if verdict.cause is None else FailureCause(verdict.cause)
            if verdict.positions is not None:
                self.parts[conformer][fragment] = verdict.positions
            free = self.held[fragment] is None and self.start(conformer, fragment) is None
            if cause in MENDABLE and free and not was_mended:
                self._faulty[conformer, fragment] = sample
        if cause is not None:
            self.rejections[cause.value] += 1
            self.causes[conformer] = cause

    def settle(
        self,
        settings: DiffusionEmbedParameters,
        all_or_nothing: bool,
        deadline: float | None = None,
    ) -> None:
        """Relax, choose and prune what was accepted: the slow part of `deliver`, writing nothing.

        Different tasks may be settled in different threads, even where they share a Mol.

        Args:
            settings: parameters of the call.
            all_or_nothing: a timeout takes back what was finished.
            deadline: `time.monotonic()` after which nothing is relaxed any more.
        """
        complete, failures = self.completed()
        if all_or_nothing and FailureCause.EXCEEDED_TIMEOUT in failures:
            failures[FailureCause.EXCEEDED_TIMEOUT.value] += len(complete)
            complete = []
        conformers = self.relaxed(complete, settings, deadline)
        staying = [k for k, own in enumerate(self.held) if own is not None]
        accepted = [
            assemble(self.fragments, [c.parts[k] for k in range(len(self.fragments))], staying)
            for c in conformers
        ]
        if settings.oversampling > 1 and not _over(deadline):
            order = self._preferred(conformers, settings)
            complete = [complete[k] for k in order]
            conformers = [conformers[k] for k in order]
            accepted = [accepted[k] for k in order]
        kept = prune(
            self.full,
            accepted,
            settings.pruneRmsThresh,
            heavy_only=settings.onlyHeavyAtomsForRMS,
            symmetry=settings.useSymmetryForPruning,
            symmetrize_terminal=settings.symmetrizeConjugatedTerminalGroupsForPruning,
            threads=settings.numThreads,
        )[: self.wanted]
        there = min(len(accepted), self.wanted)
        if len(kept) < there:
            failures[FailureCause.PRUNED.value] = there - len(kept)
        causes = [conformers[k].cause for k in kept]
        self.settled = Settled(
            [accepted[k] for k in kept],
            [conformers[k].properties(complete[k], settings.relax) for k in kept],
            failures,
            Counter(cause.value for cause in causes if cause is not None),
        )

    def deliver(self, settings: DiffusionEmbedParameters, all_or_nothing: bool) -> None:
        """Write what was accepted to the Mol and account for the rest; settles first if need be."""
        if self.settled is None:
            self.settle(settings, all_or_nothing)
        assert self.settled is not None
        done = self.settled
        self.result.conf_ids = self.write(done)
        self.result.failures = dict(done.failures)
        self.result.unrelaxed = dict(done.unrelaxed)
        self.result.rejections = dict(self.rejections)

    def write(self, done: Settled) -> list[int]:
        """Put the settled conformers on the Mol and return their ids."""
        return write_conformers(self.mol, done.positions, done.properties)

    def completed(self) -> tuple[list[int], Counter[str]]:
        """Conformers of which every fragment was accepted, and why there are not as many as wanted.

        What is missing beyond that is no failure: others took its place.
        """
        complete = self._complete()
        # None only where an interrupt came before any verdict.
        done = set(complete)
        lost = [c.value for k, c in enumerate(self.causes) if c and k not in done]
        return complete, Counter(lost[: max(0, self.wanted - len(complete))])

    def _complete(self) -> list[int]:
        return [k for k, done in enumerate(self.parts) if len(done) == len(self.fragments)]

    def _preferred(
        self, conformers: list[RelaxedParts], settings: DiffusionEmbedParameters
    ) -> list[int]:
        """Indices of complete conformers, those first that stand for the others."""
        parts = [c.parts for c in conformers]
        if not parts or not self.judges:
            return list(range(len(parts)))
        return representatives(
            [(self.fragments[k].mol, np.stack([p[k] for p in parts])) for k in self.judges],
            self._energies(conformers, settings) if settings.energyWidth > 0 else None,
            settings.energyWidth,
        )

    def _energies(
        self, conformers: list[RelaxedParts], settings: DiffusionEmbedParameters
    ) -> np.ndarray | None:
        """Energies in kcal/mol by which conformers are chosen; NaN where one has none."""
        if settings.relax:
            return np.array([np.nan if c.energy is None else c.energy for c in conformers], float)
        parts = [c.parts for c in conformers]
        threads = settings.numThreads
        return settled_energies(self.fragments, self.judges, parts, threads, self.held)

    def relaxed(
        self, complete: list[int], settings: DiffusionEmbedParameters, deadline: float | None
    ) -> list[RelaxedParts]:
        """The complete conformers, relaxed if that is asked for."""
        chosen = [self.parts[index] for index in complete]
        if not settings.relax:
            return [RelaxedParts(parts) for parts in chosen]
        if _over(deadline):
            return [RelaxedParts(parts, None, FailureCause.EXCEEDED_TIMEOUT) for parts in chosen]
        return relax_parts(
            self.fragments, self.judges, chosen, settings.relax, settings.numThreads, self.held
        )


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline
