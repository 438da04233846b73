"""Conformer generators behind one call, so that all are measured alike.

Every generator sees a copy of the molecular graph without conformers: no reference coordinate can
leak into what it makes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from rdgeodiff.chem.fragments import split
from rdgeodiff.chem.relax import settled_energies
from rdgeodiff.chem.representatives import representatives

METHODS = ("diffusion", "diffusion+mmff", "etkdg", "etkdg+mmff")
MMFF_ITERATIONS = 1000


@dataclass(frozen=True)
class Generated:
    """What a generator made of one molecule.

    Attributes:
        positions: (K, N, 3) float64 in Å, K ≤ requested.
        requested: conformers asked for.
        seconds: wall-clock time.
        raw_samples, raw_stereo_ok: samples drawn before any check, and those among them with every
            specified stereo element right; None for a method that does not show its raw samples.
        notes: counted causes of what is missing or was done differently.
        error: why the molecule could not be attempted at all.
    """

    positions: np.ndarray
    requested: int
    seconds: float
    raw_samples: int | None = None
    raw_stereo_ok: int | None = None
    notes: dict[str, int] = field(default_factory=dict)
    error: str | None = None


class Generator(Protocol):
    """Molecules with explicit hydrogens and conformers wanted of each → what was made, in order."""

    name: str

    def __call__(self, mols: Sequence[Chem.Mol], counts: Sequence[int]) -> Iterator[Generated]: ...


class DiffusionGenerator:
    """The diffusion model through the public `EmbedMoleculesDiffusion`.

    Args:
        seed: molecule k of a call uses seed + k.
        embed: replaces `EmbedMoleculesDiffusion`.
        minimize: ask for relaxation with MMFF94s, the public `relax`.
        name: in tables; by default that of the method.
        options: attributes of `DiffusionEmbedParameters` (model, steps, sampler, numThreads, …).
    """

    def __init__(
        self,
        seed: int = 0,
        embed: Callable[..., Any] | None = None,
        minimize: bool = False,
        name: str = "",
        **options: Any,
    ) -> None:
        self.name = name or ("diffusion+mmff" if minimize else "diffusion")
        if minimize:
            options["relax"] = "MMFF94s"
        if embed is None:
            from rdgeodiff.embed import EmbedMoleculesDiffusion

            embed = EmbedMoleculesDiffusion
        self._embed, self._seed, self._options = embed, seed, options
        self._warm = False

    def __call__(self, mols: Sequence[Chem.Mol], counts: Sequence[int]) -> Iterator[Generated]:
        for row, (mol, count) in enumerate(zip(mols, counts, strict=True)):
            if not self._warm:
                # Loading the weights is no part of the time of a conformer.
                ethane = Chem.AddHs(Chem.MolFromSmiles("CC"))
                self._embed([ethane], 1, randomSeed=0, **self._options)
                self._warm = True
            blank = _blank(mol)
            start = time.perf_counter()
            (result,) = self._embed([blank], count, randomSeed=self._seed + row, **self._options)
            seconds = time.perf_counter() - start
            notes = {f"missing {cause}": n for cause, n in result.failures.items() if n}
            notes |= {f"unrelaxed {cause}": n for cause, n in result.unrelaxed.items() if n}
            notes |= {f"resampled {cause}": n for cause, n in result.rejections.items() if n}
            yield Generated(
                _positions(blank, result.conf_ids),
                count,
                seconds,
                result.raw_samples,
                result.raw_stereo_ok,
                notes,
                result.error,
            )


class EtkdgGenerator:
    """RDKit's ETKDGv3, on request followed by MMFF94s minimisation.

    Molecules without MMFF94s parameters keep their ETKDG coordinates and are counted in `notes`, as
    are minimisations that did not converge.

    Args:
        minimize: run MMFF94s.
        seed: of every molecule; `randomSeed` is seed + 1, because RDKit multiplies it by the number
            of the conformer and makes n times the same conformer of 0. -1 stays -1 (no seed).
        threads: `numThreads`.
        timeout: s per molecule, 0 for none.
        oversampling, energy_width: as in `DiffusionEmbedParameters`: of more conformers are taken
            those that a diffusion call would take.
    """

    def __init__(
        self,
        minimize: bool = False,
        seed: int = 0,
        threads: int = 1,
        timeout: int = 0,
        oversampling: int = 1,
        energy_width: float = 2.0,
    ) -> None:
        self.name = "etkdg+mmff" if minimize else "etkdg"
        self._minimize, self._threads = minimize, threads
        self._oversampling, self._width = oversampling, energy_width
        parameters: Any = rdDistGeom.ETKDGv3()
        settings = {"randomSeed": seed + 1 if seed >= 0 else -1, "numThreads": threads}
        for name, value in {**settings, "timeout": timeout}.items():
            setattr(parameters, name, value)
        self._parameters = parameters

    def __call__(self, mols: Sequence[Chem.Mol], counts: Sequence[int]) -> Iterator[Generated]:
        for mol, count in zip(mols, counts, strict=True):
            blank = _blank(mol)
            notes: dict[str, int] = {}
            start = time.perf_counter()
            with rdBase.BlockLogs():
                # On a timeout RDKit returns the single id -1.
                pool = count * self._oversampling
                ids = rdDistGeom.EmbedMultipleConfs(blank, pool, self._parameters)
                kept = [i for i in ids if i >= 0]
                if self._minimize and kept:
                    notes = _minimized(blank, self._threads)
                if self._oversampling > 1 and kept:
                    kept = [kept[k] for k in self._preferred(blank, kept)[:count]]
            seconds = time.perf_counter() - start
            if len(kept) < count:
                notes["not_embedded"] = count - len(kept)
            yield Generated(_positions(blank, kept), count, seconds, notes=notes)

    def _preferred(self, mol: Chem.Mol, ids: Sequence[int]) -> list[int]:
        """Indices of conformers, those first that a call with `oversampling` would deliver."""
        positions, energies = _positions(mol, ids), None
        if self._width > 0:
            whole, parts = split(mol, separately=False), [{0: p} for p in positions]
            energies = settled_energies(whole, [0], parts, self._threads)
        return representatives([(mol, positions)], energies, self._width)


def make_generator(
    method: str, *, seed: int = 0, threads: int = 1, **diffusion_options: Any
) -> Generator:
    """The generator called `method`, one of METHODS; raises ValueError for another name.

    `oversampling` and `energyWidth` among the options are ETKDGv3's as well.
    """
    if method in ("diffusion", "diffusion+mmff"):
        minimize = method == "diffusion+mmff"
        return DiffusionGenerator(seed, minimize=minimize, numThreads=threads, **diffusion_options)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    return EtkdgGenerator(
        method == "etkdg+mmff",
        seed,
        threads,
        oversampling=diffusion_options.get("oversampling", 1),
        energy_width=diffusion_options.get("energyWidth", 2.0),
    )


def make_generators(
    methods: Sequence[str],
    others: Sequence[str] = (),
    *,
    seed: int = 0,
    threads: int = 1,
    **diffusion_options: Any,
) -> list[Generator]:
    """The generators of `methods`, then one for each other model that is to stand beside them.

    Args:
        methods: names of METHODS.
        others: "MODEL", "MODEL,SAMPLER" or "MODEL,SAMPLER,STEPS"; what is left out is the model's
            own. Tables name them by the file and what follows it.
        seed, threads, diffusion_options: see `make_generator`; of the others all but model,
            sampler and steps.

    Raises:
        ValueError: unknown method, malformed description, or two with one name.
    """
    generators = [
        make_generator(m, seed=seed, threads=threads, **diffusion_options) for m in methods
    ]
    for text in others:
        model, *rest = (part.strip() for part in text.split(","))
        sampler = rest[0] if rest else ""
        steps = rest[1] if len(rest) > 1 else "0"
        if len(rest) > 2 or not model or not steps.isdecimal():
            raise ValueError(f"a model is named as MODEL,SAMPLER,STEPS, not {text!r}")
        options = {**diffusion_options, "model": model, "sampler": sampler, "steps": int(steps)}
        name = " ".join([Path(model).stem, *rest])
        generators.append(DiffusionGenerator(seed, numThreads=threads, name=name, **options))
    names = [g.name for g in generators]
    if len(set(names)) < len(names):
        # Reports keep what a method did under its name.
        raise ValueError(f"two methods with one name: {', '.join(names)}")
    return generators


def _blank(mol: Chem.Mol) -> Chem.Mol:
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    return copy


def _positions(mol: Chem.Mol, ids: Sequence[int]) -> np.ndarray:
    stacked = [mol.GetConformer(int(i)).GetPositions() for i in ids]
    return np.array(stacked, float).reshape(-1, mol.GetNumAtoms(), 3)


def _minimized(mol: Chem.Mol, threads: int) -> dict[str, int]:
    """Minimise all conformers of `mol` in place; counted exceptions."""
    count = mol.GetNumConformers()
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return {"no_mmff_parameters": count}
    results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(
        mol, numThreads=threads, maxIters=MMFF_ITERATIONS, mmffVariant="MMFF94s"
    )
    unfinished = sum(flag != 0 for flag, _ in results)
    return {"mmff_not_converged": unfinished} if unfinished else {}
