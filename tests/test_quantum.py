"""xtb and Psi4 as programs: what goes in, what is read, and every way it can fail."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import mol_from
from rdkit import Chem

from rdgeodiff.evaluation.quantum import (
    HARTREE,
    Psi4,
    QuantumError,
    QuantumFailure,
    SinglePoint,
    Xtb,
    electronic_state,
    make_program,
    parse_psi4,
    parse_xtb,
)
from rdgeodiff.evaluation.quantum_cache import CachedProgram

RECORDED = Path(__file__).parent / "fixtures" / "quantum"
WATER = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
METHYL = np.array([[0.0, 0.0, 0.0], [1.08, 0.0, 0.0], [-0.54, 0.9353, 0.0], [-0.54, -0.9353, 0.0]])


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`install(name, script)` puts a shell script in front of the PATH; returns its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return folder

    return write


def test_xtb_output_of_a_closed_shell() -> None:
    text = (RECORDED / "xtb_water.json").read_text()
    found = parse_xtb(text)
    assert found.energy == pytest.approx(-5.07037076 * 27.211386246)
    assert found.homo == -12.17689609
    assert found.gap == pytest.approx(json.loads(text)["HOMO-LUMO gap/eV"], abs=1e-7)
    # The names of xtb 6.6 and later.
    assert parse_xtb(text.replace("energies/eV", "energies / eV")) == found


def test_psi4_output_of_a_closed_shell() -> None:
    found = parse_psi4((RECORDED / "psi4_water.json").read_text())
    # As printed by Psi4 itself, in hartree.
    assert found.energy / HARTREE == pytest.approx(-76.0230922657, abs=1e-9)
    assert found.homo / HARTREE == pytest.approx(-0.497115, abs=1e-6)
    assert found.lumo / HARTREE == pytest.approx(0.211990, abs=1e-6)


def test_an_open_shell_has_the_orbitals_of_its_majority_spin() -> None:
    text = (RECORDED / "xtb_methyl.json").read_text()
    xtb, data = parse_xtb(text), json.loads(text)
    assert data["fractional occupation"][3] == 1.0  # the unpaired electron's
    assert xtb.homo == data["orbital energies/eV"][3]
    psi4 = parse_psi4((RECORDED / "psi4_methyl.json").read_text())
    assert psi4.homo / HARTREE == pytest.approx(-0.38347587, abs=1e-7)


@pytest.mark.parametrize("parse", [parse_xtb, parse_psi4])
@pytest.mark.parametrize("damage", ["", "{}", "[1]", "half", "nan", "none occupied"])
def test_unreadable_output_has_its_cause(parse: Callable[[str], SinglePoint], damage: str) -> None:
    name = "xtb_water.json" if parse is parse_xtb else "psi4_water.json"
    whole = (RECORDED / name).read_text()
    data = json.loads(whole)
    if damage == "half":
        damage = whole[: len(whole) // 2]
    elif damage == "nan":
        data["total energy"] = data["energy"] = float("nan")
        damage = json.dumps(data)
    elif damage == "none occupied":
        data["number of electrons"] = data["occupied"] = 0
        damage = json.dumps(data)
    with pytest.raises(QuantumError) as caught:
        parse(damage)
    assert caught.value.cause == QuantumFailure.UNREADABLE_OUTPUT


@pytest.mark.parametrize(
    ("smiles", "state"),
    [("O", (0, 0)), ("[NH4+]", (1, 0)), ("CC(=O)[O-]", (-1, 0)), ("[CH3]", (0, 1)),
     ("[CH2]", (0, 2)), ("C[N+](=O)[O-]", (0, 0)), ("[Na+].[Cl-]", (0, 0))],
)  # fmt: skip
def test_charge_and_unpaired_electrons(smiles: str, state: tuple[int, int]) -> None:
    assert electronic_state(mol_from(smiles)) == state


def test_xtb_is_told_geometry_charge_and_spin(
    install: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "ours")
    folder = install(
        "xtb",
        f'cat "$1" > "$(dirname "$0")/seen.xyz"\n'
        'echo "$@ $OMP_NUM_THREADS ${PYTHONPATH-unset}" > "$(dirname "$0")/seen.txt"\n'
        f'cp "{RECORDED}/xtb_methyl.json" xtbout.json',
    )
    before = set(Path().iterdir())
    found = Xtb().single_point(mol_from("[CH3]"), METHYL)
    assert found == parse_xtb((RECORDED / "xtb_methyl.json").read_text())
    *arguments, threads, path = (folder / "seen.txt").read_text().split()
    told = dict(zip(arguments[1:], arguments[2:], strict=False))
    assert (told["--chrg"], told["--uhf"], told["--gfn"]) == ("0", "1", "2")
    assert "--json" in arguments and (threads, path) == ("1", "unset")
    lines = (folder / "seen.xyz").read_text().splitlines()
    assert lines[0] == "4" and [line[0] for line in lines[2:]] == list("CHHH")
    seen = np.array([line.split()[1:] for line in lines[2:]], float)
    np.testing.assert_allclose(seen, METHYL, atol=1e-8)
    assert set(Path().iterdir()) == before  # nothing is left where we stand


@pytest.mark.parametrize(
    ("smiles", "state", "reference"), [("[NH4+]", "1 1", "rhf"), ("[CH3]", "0 2", "uhf")]
)
def test_psi4_is_told_charge_and_multiplicity(
    install: Callable[[str, str], Path], smiles: str, state: str, reference: str
) -> None:
    folder = install(
        "psi4",
        'cp "$2" "$(dirname "$0")/seen.dat"\n'
        'test "$PSI_SCRATCH" = "$(pwd -P)" || test "$PSI_SCRATCH" = "$PWD" || exit 3\n'
        f'cp "{RECORDED}/psi4_water.json" result.json',
    )
    mol = mol_from(smiles)
    Psi4(basis="sto-3g").single_point(mol, np.arange(3.0 * mol.GetNumAtoms()).reshape(-1, 3))
    lines = (folder / "seen.dat").read_text().splitlines()
    start = lines.index("molecule conformer {")
    assert lines[start + 1] == state and lines[start + 3].split()[1:] == [
        "3.00000000",
        "4.00000000",
        "5.00000000",
    ]
    assert "set basis sto-3g" in lines and f"set reference {reference}" in lines


@pytest.mark.parametrize("name", ["xtb", "psi4"])
def test_failures_have_causes_and_the_programs_words(
    install: Callable[[str, str], Path], name: str
) -> None:
    mol = mol_from("O")

    def caught(script: str) -> QuantumError:
        install(name, script)
        with pytest.raises(QuantumError) as error:
            make_program(name).single_point(mol, WATER)
        return error.value

    error = caught(f'cat "{RECORDED}/{name}_not_converged.txt"; exit 1')
    assert error.cause == QuantumFailure.NOT_CONVERGED and "not converge" in str(error)
    error = caught("echo no licence for atom 3 >&2; exit 7")
    assert error.cause == QuantumFailure.PROGRAM_FAILED
    assert "exit status 7" in str(error) and "no licence for atom 3" in str(error)
    assert caught("kill -9 $$").cause == QuantumFailure.PROGRAM_FAILED
    assert caught("exit 0").cause == QuantumFailure.UNREADABLE_OUTPUT


def test_a_time_limit_ends_the_program_and_what_it_started(
    install: Callable[[str, str], Path],
) -> None:
    folder = install("xtb", 'sleep 300 &\necho $! > "$(dirname "$0")/child"\nwait')
    with pytest.raises(QuantumError, match="no result after 0.5 s") as caught:
        Xtb(timeout=0.5).single_point(mol_from("O"), WATER)
    assert caught.value.cause == QuantumFailure.EXCEEDED_TIMEOUT
    child = int((folder / "child").read_text())
    for _ in range(1000):  # a signal takes its time on a busy machine
        if not _runs(child):
            return
        time.sleep(0.01)
    pytest.fail("what the program started outlives it")


def _runs(process: int) -> bool:
    """Whether a process exists and is not merely waiting to be reaped."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", ["xtb", "psi4"])
def test_an_absent_program_comes_with_instructions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"apt-get install {name}.*conda install"):
        make_program(name)


def test_unknown_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="known: xtb, psi4"):
        make_program("gaussian")


class Counting:
    """A program whose energy is that of one coordinate; odd calls may fail."""

    name, level = "counting", "guess"

    def __init__(self, fails: bool = False) -> None:
        self.calls, self._fails = 0, fails

    def single_point(self, mol: Chem.Mol, positions: np.ndarray) -> SinglePoint:
        self.calls += 1
        if self._fails:
            raise QuantumError("no", QuantumFailure.NOT_CONVERGED)
        return SinglePoint(float(positions[0, 0]), -1.0, 1.0)


def test_a_cache_is_asked_first_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    water, first, moved = mol_from("O"), Counting(), WATER + [1e-3, 0.0, 0.0]
    cached = CachedProgram(first, path)
    results = [cached.single_point(water, x) for x in (WATER, moved, WATER)]
    assert first.calls == 2 and results[0] == results[2] != results[1]

    path.write_text(path.read_text()[:-20])  # killed while it wrote the second
    second = Counting()
    cached = CachedProgram(second, path)
    assert [cached.single_point(water, x) for x in (WATER, moved)] == results[:2]
    assert second.calls == 1
    third = Counting()
    assert CachedProgram(third, path).single_point(water, moved) == results[1]
    assert third.calls == 0


def test_a_cache_tells_molecules_levels_and_failures_apart(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    failing = CachedProgram(Counting(fails=True), path)
    with pytest.raises(QuantumError):
        failing.single_point(mol_from("O"), WATER)
    program = Counting()
    cached = CachedProgram(program, path)
    for mol in (mol_from("O"), mol_from("S"), Chem.MolFromSmiles("[OH-].[H+]")):
        cached.single_point(mol, WATER[: mol.GetNumAtoms()])
    assert program.calls == 3
    other = Counting()
    other.level = "better guess"
    CachedProgram(other, path).single_point(mol_from("O"), WATER)
    assert other.calls == 1


@pytest.mark.parametrize("name", ["xtb", "psi4"])
def test_the_real_program_repeats_what_was_recorded(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (make {name}); recorded output is tested above")
    program = make_program(name, timeout=60.0)
    parse = {"xtb": parse_xtb, "psi4": parse_psi4}[name]
    for smiles, positions, record in (("O", WATER, "water"), ("[CH3]", METHYL, "methyl")):
        found = program.single_point(mol_from(smiles), positions)
        wanted = parse((RECORDED / f"{name}_{record}.json").read_text())
        assert found.energy == pytest.approx(wanted.energy, abs=1e-3)
        assert found.gap == pytest.approx(wanted.gap, abs=1e-3)
    with pytest.raises(QuantumError, match="close") as caught:
        program.single_point(mol_from("O"), np.zeros((3, 3)))
    assert caught.value.cause == QuantumFailure.PROGRAM_FAILED
