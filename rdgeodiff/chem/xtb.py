"""Geometry optimisation and metadynamics with the program xtb: GFN2-xTB, GFN1-xTB and GFN-FF.

xtb is told the total charge and the number of unpaired electrons of the Mol. Each call runs on one
thread, in a folder of its own that is gone afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.programs import (
    QuantumError,
    QuantumFailure,
    coordinate_lines,
    electronic_state,
    installed,
    run_program,
)

HARTREE = 627.5094740631  # kcal/mol
METHODS = {"gfn2": ("--gfn", "2"), "gfn1": ("--gfn", "1"), "gfnff": ("--gfnff",)}
NAMES = {"gfn2": "GFN2-xTB", "gfn1": "GFN1-xTB", "gfnff": "GFN-FF"}
LEVELS = ("crude", "sloppy", "loose", "normal", "tight", "verytight")

# The bias is the strongest of those CREST takes turns with (Pracht, Bohle and Grimme 2020); one
# several times as strong turns double bonds over. Velocities are the same random ones every time:
# what makes runs differ is where they start.
_METADYNAMICS = """\
$samerand
$md
 time={picoseconds}
 step=2.0
 temp={kelvin}
 dump={dump}
 shake=2
 hmass=4
$metadyn
 save={saved}
 kpush={push}
 alp=1.3
$end
"""


@dataclass(frozen=True)
class Optimised:
    """A geometry after optimisation: positions (N, 3) in Å and total energy in kcal/mol."""

    positions: np.ndarray
    energy: float


class XtbProgram:
    """The program xtb.

    Args:
        timeout: s of wall-clock time a calculation may take.
        solvent: name of a solvent xtb has ALPB parameters for; "" is the gas phase.
        scratch: folder for temporary files; the system's own if None.

    Raises:
        FileNotFoundError: xtb is not installed; says how to install it.
    """

    def __init__(
        self, timeout: float = 600.0, solvent: str = "", scratch: Path | None = None
    ) -> None:
        self._path = installed("xtb")
        self._timeout, self._solvent, self._scratch = timeout, solvent, scratch

    def optimise(
        self, mol: Chem.Mol, positions: np.ndarray, method: str = "gfn2", level: str = "normal"
    ) -> Optimised:
        """The minimum next to `positions` (N, 3) in Å of the atoms of `mol`.

        Args:
            mol: with explicit hydrogens; its charge and radicals count.
            positions: where to begin.
            method: one of METHODS.
            level: one of LEVELS: xtb's thresholds of convergence.

        Raises:
            QuantumError: xtb failed, ran out of time or of steps.
        """
        with tempfile.TemporaryDirectory(prefix="xtb-", dir=self._scratch) as name:
            folder = Path(name)
            self._run(folder, mol, positions, [*METHODS[method], "--opt", level])
            if not (folder / ".xtboptok").exists():
                raise QuantumError("not converged within xtb's steps", QuantumFailure.NOT_CONVERGED)
            found = list(read_frames(folder / "xtbopt.xyz", mol.GetNumAtoms()))
            if len(found) != 1:
                raise QuantumError(
                    f"xtbopt.xyz holds {len(found)} geometries", QuantumFailure.UNREADABLE_OUTPUT
                )
            return found[0]

    def metadynamics(
        self,
        mol: Chem.Mol,
        positions: np.ndarray,
        count: int,
        *,
        method: str = "gfnff",
        picoseconds: float = 20.0,
        kelvin: float = 400.0,
        push: float | None = None,
    ) -> list[np.ndarray]:
        """`count` snapshots (N, 3) in Å of a run that is pushed away from where it has been.

        Args:
            mol: with explicit hydrogens.
            positions: where it starts, (N, 3) in Å, relaxed.
            count: snapshots, evenly spaced in time.
            method: one of METHODS.
            picoseconds: length of the run.
            kelvin: temperature.
            push: strength of the bias in Hartree; by default 0.003 an atom.

        Raises:
            QuantumError: xtb failed or ran out of time.
        """
        push = 0.003 * mol.GetNumAtoms() if push is None else push
        text = _METADYNAMICS.format(
            picoseconds=picoseconds,
            kelvin=kelvin,
            dump=1000.0 * picoseconds / count,
            saved=max(10, count // 2),
            push=push,
        )
        with tempfile.TemporaryDirectory(prefix="xtb-", dir=self._scratch) as name:
            folder = Path(name)
            (folder / "run.inp").write_text(text)
            command = [*METHODS[method], "--metadyn", "--input", "run.inp"]
            self._run(folder, mol, positions, command)
            frames = read_frames(folder / "xtb.trj", mol.GetNumAtoms())
            return [frame.positions for frame in frames][:count]

    def _run(self, folder: Path, mol: Chem.Mol, positions: np.ndarray, options: list[str]) -> None:
        charge, unpaired = electronic_state(mol)
        atoms = coordinate_lines(mol, positions)
        (folder / "molecule.xyz").write_text(f"{len(atoms)}\n\n" + "\n".join(atoms) + "\n")
        state = ["--chrg", str(charge), "--uhf", str(unpaired)]
        medium = ["--alpb", self._solvent] if self._solvent else []
        command = [self._path, "molecule.xyz", *options, *state, *medium, "--norestart"]
        run_program(command, folder, self._timeout)


def read_frames(path: Path, atoms: int) -> Iterator[Optimised]:
    """Geometries of an .xyz file of xtb's, with the energy of its comment line.

    Raises:
        QuantumError: missing, cut off, or of another number of atoms.
    """
    try:
        lines = path.read_text().splitlines()
        for start in range(0, len(lines), atoms + 2):
            if int(lines[start]) != atoms:
                raise ValueError(f"{lines[start]} atoms, not {atoms}")
            words = lines[start + 1].split()
            energy = float(words[words.index("energy:") + 1]) * HARTREE
            rows = [line.split()[1:4] for line in lines[start + 2 : start + 2 + atoms]]
            positions = np.array(rows, float)
            if positions.shape != (atoms, 3) or not np.isfinite([energy, *positions.flat]).all():
                raise ValueError("no finite positions and energy")
            yield Optimised(positions, energy)
    except (OSError, ValueError, IndexError) as error:
        message = f"{path.name} does not hold a result: {error}"
        raise QuantumError(message, QuantumFailure.UNREADABLE_OUTPUT) from error


class BondGraph:
    """Do positions still have the bonds of a molecule, and no others?

    A bond is intact up to 1.3 times the sum of the covalent radii, a new one is seen below 1.15
    times: bicyclopentane's cage atoms (1.23) are not bonded, a hydrogen that moved over is.

    Args:
        mol: whose atoms are the rows of the positions.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        n = mol.GetNumAtoms()
        self._i, self._j = np.triu_indices(n, 1)
        table = Chem.GetPeriodicTable()
        radii = np.array([table.GetRcovalent(a.GetAtomicNum()) for a in mol.GetAtoms()])
        self._bonded = Chem.GetAdjacencyMatrix(mol)[self._i, self._j] > 0
        self._reach = (radii[self._i] + radii[self._j]) * np.where(self._bonded, 1.3, 1.15)

    def holds(self, positions: np.ndarray) -> bool:
        """Whether (N, 3) positions in Å have the same bonds."""
        near = np.linalg.norm(positions[self._i] - positions[self._j], axis=-1) < self._reach
        return bool((near == self._bonded).all())
