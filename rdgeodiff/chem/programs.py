"""Quantum-chemical programs run as programs: a process, a folder and a time limit a calculation.

A calculation that fails raises `QuantumError` with a cause to count. What such programs are told of
a molecule (charge, unpaired electrons, coordinates) is read from the Mol here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from enum import StrEnum
from pathlib import Path

import numpy as np
from rdkit import Chem

_TAIL = 300  # characters of a program's last words in a message
# A complaint of xtb, or the last line of a Python traceback.
_COMPLAINT = re.compile(r"^ *(-\d+- .*|(?:psi4\.[\w.]+|[\w.]*Error): .*)$", re.MULTILINE)

_running: set[int] = set()  # process groups of `run_program`
_running_lock = threading.Lock()


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


def electronic_state(mol: Chem.Mol) -> tuple[int, int]:
    """Total charge and number of unpaired electrons: all radicals of `mol` in parallel."""
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return Chem.GetFormalCharge(mol), unpaired


def coordinate_lines(mol: Chem.Mol, positions: np.ndarray) -> list[str]:
    """A line "symbol x y z" of each atom of `mol` at `positions` (N, 3) in Å."""
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    rows = np.asarray(positions, float).tolist()
    return [f"{s} {x:.8f} {y:.8f} {z:.8f}" for s, (x, y, z) in zip(symbols, rows, strict=True)]


def installed(name: str) -> str:
    """Path of the program `name`; raises FileNotFoundError that says how to install it."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"the program {name} was not found. Install it with `make {name}` (Debian, Ubuntu: "
            f"apt-get install {name}; elsewhere: conda install -c conda-forge {name})"
        )
    return path


def stop_programs() -> None:
    """End every calculation that runs now; the threads that wait for them get `QuantumError`."""
    with _running_lock:
        for group in _running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def run_program(command: list[str], folder: Path, timeout: float) -> None:
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
            process_group=0,
        )
        with _running_lock:
            _running.add(process.pid)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            message = f"no result after {timeout:g} s"
            raise QuantumError(message, QuantumFailure.EXCEEDED_TIMEOUT) from error
        finally:
            # The group: what the program itself started must not outlive it.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            with _running_lock:
                _running.discard(process.pid)
    if status:
        words = log.read_text(errors="replace").strip()
        gave_up = re.search("(did|could) not converge", words, re.IGNORECASE)
        cause = QuantumFailure.NOT_CONVERGED if gave_up else QuantumFailure.PROGRAM_FAILED
        told = "; ".join(_COMPLAINT.findall(words)) or words
        raise QuantumError(f"exit status {status}: {told[-_TAIL:]}", cause)
