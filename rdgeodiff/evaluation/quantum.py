"""Energies and orbital energies of conformers from xtb and Psi4, run as programs.

GeoDiff (§5.3) took them from Psi4 at the defaults of psikit: Hartree–Fock with the 6-31G** basis on
the geometry as it comes. GFN2-xTB costs a hundredth of that. Each calculation has a process, a
folder and a time limit of its own; one that fails raises `QuantumError` with a cause to count.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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

HARTREE = 27.211386246  # eV
TIMEOUT = 600.0  # s


@dataclass(frozen=True)
class SinglePoint:
    """Total energy and frontier orbitals of one geometry in eV.

    In an open shell both orbitals are those of the majority spin, as in GeoDiff's evaluation.
    """

    energy: float
    homo: float
    lumo: float

    @property
    def gap(self) -> float:
        """LUMO − HOMO."""
        return self.lumo - self.homo


class QuantumProgram(Protocol):
    """A program that computes single points.

    Attributes:
        name: as on the command line.
        level: the level of theory, for reports and caches.
    """

    name: str
    level: str

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        """Compute atoms of `mol` at `positions` (N, 3) in Å; raises QuantumError."""
        ...


class Xtb:
    """GFN2-xTB.

    Args:
        timeout: s of wall-clock time a calculation may take.

    Raises:
        FileNotFoundError: xtb is not installed; says how to install it.
    """

    name = "xtb"
    level = "GFN2-xTB"

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._path = installed("xtb")
        self._timeout = timeout

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        charge, unpaired = electronic_state(mol)
        with tempfile.TemporaryDirectory(prefix="rdgeodiff-xtb-") as name:
            folder = Path(name)
            atoms = coordinate_lines(mol, positions)
            (folder / "molecule.xyz").write_text(f"{len(atoms)}\n\n" + "\n".join(atoms) + "\n")
            state = ["--chrg", str(charge), "--uhf", str(unpaired)]
            command = [self._path, "molecule.xyz", "--gfn", "2", *state, "--json", "--norestart"]
            run_program(command, folder, self._timeout)
            return parse_xtb(_read(folder / "xtbout.json"))


class Psi4:
    """Density-fitted Hartree–Fock, restricted for singlets and unrestricted otherwise.

    Args:
        timeout: s of wall-clock time a calculation may take.
        basis: name of a basis set.
        memory: MB.

    Raises:
        FileNotFoundError: Psi4 is not installed; says how to install it.
    """

    name = "psi4"

    def __init__(
        self, timeout: float = TIMEOUT, basis: str = "6-31g**", memory: int = 1000
    ) -> None:
        self._path = installed("psi4")
        self._timeout, self._basis, self._memory = timeout, basis, memory
        self.level = f"HF/{basis}"

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        charge, unpaired = electronic_state(mol)
        text = _PSI4_INPUT.format(
            memory=self._memory,
            charge=charge,
            multiplicity=unpaired + 1,
            atoms="\n".join(coordinate_lines(mol, positions)),
            basis=self._basis,
            reference="uhf" if unpaired else "rhf",
        )
        with tempfile.TemporaryDirectory(prefix="rdgeodiff-psi4-") as name:
            folder = Path(name)
            (folder / "input.dat").write_text(text)
            command = [self._path, "-i", "input.dat", "-o", "output.dat", "-n", "1"]
            run_program(command, folder, self._timeout)
            return parse_psi4(_read(folder / "result.json"))


# Psi4's input is Python: it can hand over full numbers, where the printed ones have six digits.
_PSI4_INPUT = """\
import json
memory {memory} MB
molecule conformer {{
{charge} {multiplicity}
{atoms}
units angstrom
symmetry c1
no_com
no_reorient
}}
set basis {basis}
set reference {reference}
total, wavefunction = energy("scf", return_wfn=True)
orbitals = wavefunction.epsilon_a_subset("AO", "ALL").to_array().tolist()
result = dict(energy=total, orbitals=orbitals, occupied=wavefunction.nalpha())
with open("result.json", "w") as stream:
    json.dump(result, stream)
"""

PROGRAMS: dict[str, type[Xtb] | type[Psi4]] = {"xtb": Xtb, "psi4": Psi4}


def make_program(name: str, timeout: float = TIMEOUT) -> QuantumProgram:
    """The program called `name`, one of PROGRAMS; raises ValueError for another name."""
    if name not in PROGRAMS:
        raise ValueError(f"unknown program {name!r}; known: {', '.join(PROGRAMS)}")
    return PROGRAMS[name](timeout)


def parse_xtb(text: str) -> SinglePoint:
    """The result in `xtbout.json`; raises QuantumError where it is not there."""
    with _reading("xtbout.json"):
        # Later versions write "orbital energies / eV" where 6.5 writes "orbital energies/eV".
        data = {key.replace(" ", ""): value for key, value in json.loads(text).items()}
        electrons, unpaired = data["numberofelectrons"], data["numberofunpairedelectrons"]
        return _frontier(
            data["totalenergy"] * HARTREE, data["orbitalenergies/eV"], (electrons + unpaired) // 2
        )


def parse_psi4(text: str) -> SinglePoint:
    """The result our input file writes; raises QuantumError where it is not there."""
    with _reading("result.json"):
        data = json.loads(text)
        orbitals = np.array(data["orbitals"], float) * HARTREE
        return _frontier(data["energy"] * HARTREE, orbitals, data["occupied"])


def _frontier(energy: float, orbitals: np.ndarray | list[float], occupied: int) -> SinglePoint:
    found = SinglePoint(float(energy), float(orbitals[occupied - 1]), float(orbitals[occupied]))
    if not occupied or not np.isfinite([found.energy, found.homo, found.lumo]).all():
        raise ValueError("no finite energy and orbitals")
    return found


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"{name} does not hold a result: {error!r}"
        raise QuantumError(message, QuantumFailure.UNREADABLE_OUTPUT) from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        message = f"the program ended without writing {path.name}"
        raise QuantumError(message, QuantumFailure.UNREADABLE_OUTPUT) from error
