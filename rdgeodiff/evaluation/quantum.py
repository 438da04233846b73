"""Energies and orbital energies of conformers from xtb and Psi4, run as programs.

GeoDiff (§5.3) took them from Psi4 at the defaults of psikit: Hartree–Fock with the 6-31G** basis on
the geometry as it comes. GFN2-xTB costs a hundredth of that. Each calculation has a process, a
folder and a time limit of its own; one that fails raises `QuantumError` with a cause to count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from rdkit import Chem

HARTREE = 27.211386246  # eV
TIMEOUT = 600.0  # s
_TAIL = 300  # characters of a program's last words in a message
# A complaint of xtb, or the last line of a Python traceback.
_COMPLAINT = re.compile(r"^ *(-\d+- .*|(?:psi4\.[\w.]+|[\w.]*Error): .*)$", re.MULTILINE)


class QuantumFailure(StrEnum):
    """Why there is no result."""

    EXCEEDED_TIMEOUT = "EXCEEDED_TIMEOUT"
    NOT_CONVERGED = "NOT_CONVERGED"
    PROGRAM_FAILED = "PROGRAM_FAILED"
    UNREADABLE_OUTPUT = "UNREADABLE_OUTPUT"


class QuantumError(RuntimeError):
    """A calculation without a result; `cause` says why."""

    def __init__(self, message: str, cause: QuantumFailure) -> None:
        super().__init__(message)
        self.cause = cause


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
        self._path = _installed("xtb")
        self._timeout = timeout

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        charge, unpaired = electronic_state(mol)
        with tempfile.TemporaryDirectory(prefix="rdgeodiff-xtb-") as name:
            folder = Path(name)
            atoms = _coordinates(mol, positions)
            (folder / "molecule.xyz").write_text(f"{len(atoms)}\n\n" + "\n".join(atoms) + "\n")
            state = ["--chrg", str(charge), "--uhf", str(unpaired)]
            command = [self._path, "molecule.xyz", "--gfn", "2", *state, "--json", "--norestart"]
            _run(command, folder, self._timeout)
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
        self._path = _installed("psi4")
        self._timeout, self._basis, self._memory = timeout, basis, memory
        self.level = f"HF/{basis}"

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        charge, unpaired = electronic_state(mol)
        text = _PSI4_INPUT.format(
            memory=self._memory,
            charge=charge,
            multiplicity=unpaired + 1,
            atoms="\n".join(_coordinates(mol, positions)),
            basis=self._basis,
            reference="uhf" if unpaired else "rhf",
        )
        with tempfile.TemporaryDirectory(prefix="rdgeodiff-psi4-") as name:
            folder = Path(name)
            (folder / "input.dat").write_text(text)
            command = [self._path, "-i", "input.dat", "-o", "output.dat", "-n", "1"]
            _run(command, folder, self._timeout)
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


def electronic_state(mol: Chem.Mol) -> tuple[int, int]:
    """Total charge and number of unpaired electrons: all radicals of `mol` in parallel."""
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return Chem.GetFormalCharge(mol), unpaired


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


def _coordinates(mol: Chem.Mol, positions: np.ndarray) -> list[str]:
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    rows = np.asarray(positions, float).tolist()
    return [f"{s} {x:.8f} {y:.8f} {z:.8f}" for s, (x, y, z) in zip(symbols, rows, strict=True)]


def _installed(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"the program {name} was not found. Install it with `make {name}` (Debian, Ubuntu: "
            f"apt-get install {name}; elsewhere: conda install -c conda-forge {name})"
        )
    return path


def _run(command: list[str], folder: Path, timeout: float) -> None:
    """Run on one thread within `folder`; raises QuantumError with the program's last words."""
    # A Python path meant for us would put our packages in front of those Psi4 was built with.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PSI_SCRATCH": str(folder)}
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            message = f"no result after {timeout:g} s"
            raise QuantumError(message, QuantumFailure.EXCEEDED_TIMEOUT) from error
        finally:
            # The session: what the program itself started must not outlive it.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status:
        words = log.read_text(errors="replace").strip()
        gave_up = re.search("(did|could) not converge", words, re.IGNORECASE)
        cause = QuantumFailure.NOT_CONVERGED if gave_up else QuantumFailure.PROGRAM_FAILED
        told = "; ".join(_COMPLAINT.findall(words)) or words
        raise QuantumError(f"exit status {status}: {told[-_TAIL:]}", cause)
