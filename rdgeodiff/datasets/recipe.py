"""How conformers of one molecule are made: seeds → MMFF94s → GFN-FF → GFN2-xTB → checks.

Every seed that is drawn ends as a conformer or under a cause; nothing is lost between the steps.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.programs import QuantumError
from rdgeodiff.chem.relax import NoForceFieldError, relax_positions
from rdgeodiff.chem.xtb import LEVELS, METHODS, NAMES, XtbProgram
from rdgeodiff.datasets.checks import Checks
from rdgeodiff.datasets.made import Loss, Made
from rdgeodiff.datasets.molecules import Candidate
from rdgeodiff.datasets.seeds import SEED_SOURCES, SeedSource
from rdgeodiff.datasets.selection import distinct, spread

logger = logging.getLogger(__name__)

MMFF = "mmff94s"  # the method that needs no xtb
CHOICES = ("spread", "lowest")
_FARTHEST = 32.7  # Å from the centroid, as 16 bits of 0.001 Å hold


@dataclass(frozen=True)
class Recipe:
    """What decides the conformers of a molecule.

    Attributes:
        conformers: at most so many are kept.
        seeds: geometries to begin with.
        seeds_from: one of SEED_SOURCES.
        model: of diffusion seeds.
        window: kcal/mol above the lowest that are kept; twice as much after a force field.
        gfnff: optimise with GFN-FF before the costlier method.
        straight: optimise seeds as they were drawn. A force field first is faster, but moves them
            into its own minima, and what the final method has besides is never found.
        method: of the final geometries and energies: one of `METHODS`, or `MMFF` for the force
            field's own, which takes a hundredth of the time and teaches how molecules fold.
        choose: one of `CHOICES`: the lowest and then what is furthest from it, or the lowest ones.
        level: one of `LEVELS`, of the final optimisation.
        solvent: ALPB solvent of xtb, "" for the gas phase.
        metadynamics: ps of a GFN-FF run from each of the first seeds that adds as many snapshots
            as there are seeds; 0 for none.
        runs: so many such runs.
        seed: of everything random.
    """

    conformers: int = 5
    seeds: int = 15
    seeds_from: str = "etkdg"
    model: str = "default"
    window: float = 6.0
    gfnff: bool = False
    straight: bool = False
    method: str = "gfn2"
    choose: str = "spread"
    level: str = "normal"
    solvent: str = ""
    metadynamics: float = 0.0
    runs: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("seeds_from", SEED_SOURCES),
            ("method", (*METHODS, MMFF)),
            ("choose", CHOICES),
            ("level", LEVELS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not of {', '.join(known)}")
        if self.method == MMFF and (self.gfnff or self.solvent or self.metadynamics):
            raise ValueError(f"gfnff, solvent and metadynamics are xtb's, and {MMFF} is without it")
        if self.straight and (self.gfnff or self.method in (MMFF, "gfnff")):
            raise ValueError("straight leaves force fields out, and gfnff and mmff94s are such")
        if min(self.conformers, self.seeds, self.runs) < 1:
            raise ValueError("conformers, seeds and runs must be at least 1")
        if not (self.window > 0 and self.metadynamics >= 0):
            raise ValueError("window must be above 0 kcal/mol and metadynamics not below 0 ps")

    @property
    def theory(self) -> str:
        """The level of theory, for people."""
        if self.method == MMFF:
            return "MMFF94s"
        before = "GFN-FF, then " if self.gfnff and self.method != "gfnff" else ""
        medium = f", {self.solvent}" if self.solvent else ""
        return f"{before}{NAMES[self.method]} ({self.level}{medium})"

    def to_dict(self) -> dict[str, object]:
        """Plain values, for a header."""
        values = dataclasses.asdict(self)
        if not self.straight:
            del values["straight"]  # builds from before there was a choice can go on
        return values


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """A molecule given up half-way because the whole build stops."""


class Maker:
    """Makes conformers of molecules, of several at once from several threads.

    Args:
        recipe: what to do.
        xtb: the program; None where the recipe does without.
        source: draws seeds.
        stopping: asked before every costly step; True gives the molecule up.
    """

    def __init__(
        self,
        recipe: Recipe,
        xtb: XtbProgram | None,
        source: SeedSource,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        if xtb is None and recipe.method != MMFF:
            raise ValueError(f"the method {recipe.method} needs xtb")
        self._recipe, self._source, self._stopping = recipe, source, stopping
        self._program = xtb

    @property
    def _xtb(self) -> XtbProgram:
        assert self._program is not None
        return self._program

    def make(self, candidate: Candidate) -> Made:
        """Conformers of one stereoisomer of `candidate`; raises Stopped."""
        recipe, made = self._recipe, Made()
        made.drawn = recipe.seeds
        pool: list[np.ndarray] = []
        for made.smiles, mol in candidate.isomers():
            pool = self._source.draw(mol, recipe.seeds, candidate.seed)
            if pool:
                break
        if len(pool) < recipe.seeds:
            made.losses[Loss.NO_SEEDS] += recipe.seeds - len(pool)
        if not pool:
            return made
        checks = Checks(mol)
        if recipe.metadynamics:
            pool = pool + self._snapshots(mol, pool, made)
        energies = None
        if not recipe.straight:
            pool, energies = self._relaxed(mol, pool, made, checks)
        if recipe.gfnff and recipe.method != "gfnff":
            pool, energies = self._optimised(pool, made, checks, "gfnff", "normal", len(pool))
            pool, energies = self._thinned(mol, pool, energies, made, 2 * recipe.window)
        if recipe.method == MMFF:
            return self._chosen(mol, pool, energies, made)
        if recipe.choose == "spread" and (energies is not None or recipe.straight):
            pool = [pool[k] for k in spread(mol, pool)]
        pool, energies = self._optimised(
            pool, made, checks, recipe.method, recipe.level, recipe.conformers
        )
        made.positions, made.energies = self._thinned(mol, pool, energies, made, recipe.window)
        return self._fitting(made)

    def _relaxed(
        self, mol: Chem.Mol, pool: list[np.ndarray], made: Made, checks: Checks
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """After MMFF94s: distinct conformers by rising energy; as they came without parameters."""
        try:
            relaxed = relax_positions(mol, pool, "MMFF94s")
        except NoForceFieldError:
            made.unrelaxed = True
            return pool, None
        good = [k for k, p in enumerate(relaxed.positions) if checks.passes(p, made.losses)]
        return self._thinned(
            mol,
            [relaxed.positions[k] for k in good],
            relaxed.energies[good],
            made,
            2 * self._recipe.window,
        )

    def _chosen(
        self, mol: Chem.Mol, pool: list[np.ndarray], energies: np.ndarray | None, made: Made
    ) -> Made:
        """The force field's conformers, as they are."""
        if energies is None:
            made.losses[Loss.NO_FORCE_FIELD] += len(pool)
            return made
        pool, energies = self._thinned(mol, pool, energies, made, self._recipe.window)
        order = spread(mol, pool) if self._recipe.choose == "spread" else range(len(pool))
        kept = sorted(order[: self._recipe.conformers])  # by rising energy
        if len(kept) < len(pool):
            made.losses[Loss.NOT_NEEDED] += len(pool) - len(kept)
        made.positions, made.energies = [pool[k] for k in kept], energies[kept]
        return self._fitting(made)

    def _optimised(
        self,
        pool: Sequence[np.ndarray],
        made: Made,
        checks: Checks,
        method: str,
        level: str,
        wanted: int,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """The first `wanted` of the pool that xtb turns into minima of the same molecule."""
        positions: list[np.ndarray] = []
        energies: list[float] = []
        for k, start in enumerate(pool):
            if len(positions) == wanted:
                made.losses[Loss.NOT_NEEDED] += len(pool) - k
                break
            if self._stopping():
                raise Stopped
            found = checks.minimum(self._xtb, start, made.losses, method, level)
            if found is not None:
                positions.append(found.positions)
                energies.append(found.energy)
        return positions, np.array(energies)

    def _thinned(
        self,
        mol: Chem.Mol,
        positions: list[np.ndarray],
        energies: np.ndarray,
        made: Made,
        window: float,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Distinct conformers within the window, by rising energy."""
        if not positions:
            return [], np.zeros(0)
        low = np.flatnonzero(energies - energies.min() <= window)
        kept = low[distinct(mol, [positions[k] for k in low], energies[low])]
        for cause, lost in (
            (Loss.ABOVE_WINDOW, len(positions) - len(low)),
            (Loss.SAME_CONFORMER, len(low) - len(kept)),
        ):
            if lost:
                made.losses[cause] += lost
        return [positions[k] for k in kept], energies[kept]

    def _snapshots(self, mol: Chem.Mol, pool: Sequence[np.ndarray], made: Made) -> list[np.ndarray]:
        """Geometries a biased GFN-FF run goes through; a run that fails is told of in the log."""
        recipe = self._recipe
        share = -(-recipe.seeds // recipe.runs)
        found: list[np.ndarray] = []
        for start in pool[: recipe.runs]:
            if self._stopping():
                raise Stopped
            try:
                begin = self._xtb.optimise(mol, start, "gfnff", "crude").positions
                frames = self._xtb.metadynamics(mol, begin, share, picoseconds=recipe.metadynamics)
            except QuantumError as error:
                logger.info("%s: no metadynamics from here: %s", made.smiles, error)
                made.drawn += share
                made.losses[str(error.cause)] += share
                continue
            made.drawn += len(frames)
            found += frames
        return found

    @staticmethod
    def _fitting(made: Made) -> Made:
        """The same without conformers that are too wide to be stored."""
        radii = [np.abs(p - p.mean(0)).max() for p in made.positions]
        wide = sum(r > _FARTHEST for r in radii)
        if wide:
            good = [k for k, r in enumerate(radii) if r <= _FARTHEST]
            made.losses[Loss.TOO_WIDE] += wide
            made.positions = [made.positions[k] for k in good]
            made.energies = made.energies[good]
        return made
