"""One molecule on its way through an embedding call: what it needs, has, and lost, with causes."""

from __future__ import annotations

from collections import Counter

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.conformers import prune, with_hydrogens, write_conformers
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.fragments import assemble, split
from rdgeodiff.chem.stereo import stereo_tables
from rdgeodiff.chem.validate import describe, fault
from rdgeodiff.chem.verdict import Judge
from rdgeodiff.parameters import DiffusionEmbedParameters
from rdgeodiff.results import EmbedResult, FailureCause, UnusableMoleculeError

# Drawing once more cannot help against these.
FINAL = {FailureCause.EXCEEDED_TIMEOUT, FailureCause.OUT_OF_MEMORY, FailureCause.TOO_LARGE}


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
        self.mol, self.row = mol, row
        self.result = EmbedResult(requested=count)
        try:
            self.full = with_hydrogens(mol)
            self.fragments = split(self.full)
            tables = [stereo_tables(f.mol) for f in self.fragments]
            # An atom on its own (a counter-ion of any element) needs no network.
            self.graphs = {
                k: featurize(f.mol, tables[k])
                for k, f in enumerate(self.fragments)
                if f.mol.GetNumAtoms() > 1
            }
            self.judges = {
                k: Judge(self.fragments[k].mol, tables[k], settings.enforceChirality)
                for k in self.graphs
            }
        except (RuntimeError, ValueError) as error:
            raise UnusableMoleculeError(f"{name}: {error}", FailureCause.INVALID_INPUT) from error
        alone = {k: np.zeros((1, 3)) for k in range(len(self.fragments)) if k not in self.graphs}
        self.parts: list[dict[int, np.ndarray]] = [dict(alone) for _ in range(count)]
        self.causes: list[FailureCause | None] = [None] * count
        self.rejections: Counter[str] = Counter()

    def missing(self) -> list[tuple[int, int]]:
        """(conformer, fragment) pairs still to be drawn."""
        return [
            (conformer, fragment)
            for conformer, done in enumerate(self.parts)
            if self.causes[conformer] not in FINAL
            for fragment in range(len(self.fragments))
            if fragment not in done
        ]

    def take(
        self, conformer: int, fragment: int, attempt: int, sample: np.ndarray | FailureCause
    ) -> None:
        """Judge a sample and file it."""
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
        if cause is not None:
            self.rejections[cause.value] += 1
            self.causes[conformer] = cause

    def deliver(self, settings: DiffusionEmbedParameters, all_or_nothing: bool) -> None:
        """Write what was accepted to the Mol and account for the rest."""
        failures: Counter[str] = Counter()
        accepted = []
        for parts, cause in zip(self.parts, self.causes, strict=True):
            if len(parts) == len(self.fragments):
                placed = [parts[k] for k in range(len(self.fragments))]
                accepted.append(assemble(self.fragments, placed))
            elif cause is not None:  # None only where an interrupt came before any verdict
                failures[cause.value] += 1
        if all_or_nothing and FailureCause.EXCEEDED_TIMEOUT in failures:
            failures[FailureCause.EXCEEDED_TIMEOUT.value] += len(accepted)
            accepted = []
        kept = prune(
            self.full,
            accepted,
            settings.pruneRmsThresh,
            heavy_only=settings.onlyHeavyAtomsForRMS,
            symmetry=settings.useSymmetryForPruning,
            symmetrize_terminal=settings.symmetrizeConjugatedTerminalGroupsForPruning,
            threads=settings.numThreads,
        )
        if len(kept) < len(accepted):
            failures[FailureCause.PRUNED.value] = len(accepted) - len(kept)
        self.result.conf_ids = write_conformers(self.mol, [accepted[k] for k in kept])
        self.result.failures = dict(failures)
        self.result.rejections = dict(self.rejections)
