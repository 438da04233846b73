"""Symmetric heavy-atom RMSD between two sets of conformers of one molecule.

The value is that of `rdMolAlign.GetBestRMS` on `RemoveHs` copies: the smallest RMSD over all proper
superpositions and all symmetry-equivalent atom assignments, with terminal conjugated O and N
(nitro, carboxylate, sulfonate, …) interchangeable. Symmetry is searched once a molecule and the
superpositions of all pairs are solved together, which is what makes full matrices affordable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

MAX_MATCHES = 20_000
FEW_MATCHES = 1000  # so that tert-butyl groups cost no minutes
MAX_SECONDS = 60.0
Places = np.ndarray | Sequence[np.ndarray]
_BLOCK = 200_000  # superpositions solved in one array operation

_TERMINAL = Chem.MolFromSmarts("[O,N;D1;$([O,N;D1]-*=[O,N;D1]),$([O,N;D1]=*-[O,N;D1])]~*")
_SINGLE_OR_DOUBLE = Chem.MolFromSmarts("*-,=*")  # the molecule owns its bond and is kept
_INDEX = "_rdgeodiff_index"


@dataclass(frozen=True)
class Symmetry:
    """Equivalent atom assignments of a molecule.

    Attributes:
        atoms: (H,) indices of the atoms compared (those that `Chem.RemoveHs` keeps).
        matches: (M, H) int64; row m superposes atom k of one conformer on atom matches[m, k] of the
            other. Both number positions in `atoms`. Row 0 is the identity.
        capped: True where the molecule has more than M assignments: only the first M found were
            kept, and an RMSD is then an upper bound.
    """

    atoms: np.ndarray
    matches: np.ndarray
    capped: bool


@dataclass(frozen=True)
class RmsdMatrix:
    """RMSD in Å of G generated against R reference conformers.

    Attributes:
        values: (G, R).
        matches: symmetry assignments tried for every pair.
        capped: the molecule has more assignments than the cap.
        timed_out: the time limit ended the search before all assignments were tried.
    """

    values: np.ndarray
    matches: int
    capped: bool = False
    timed_out: bool = False

    @property
    def exact(self) -> bool:
        """False where the values are upper bounds."""
        return not (self.capped or self.timed_out)


def symmetry(mol: Chem.Mol, max_matches: int = MAX_MATCHES) -> Symmetry:
    """Equivalent assignments of the atoms of `mol` that `Chem.RemoveHs` keeps.

    With more than `max_matches` of them (several CF3, tert-butyl and phenyl groups multiply), the
    identity and the first ones RDKit's search finds are kept: the set `GetBestRMS` itself would use
    with that `maxMatches`.
    """
    if max_matches < 1:
        raise ValueError(f"max_matches must be at least 1, not {max_matches}")
    tagged = Chem.Mol(mol, True)
    for atom in tagged.GetAtoms():
        atom.SetIntProp(_INDEX, atom.GetIdx())
    heavy = Chem.RemoveHs(tagged)
    atoms = np.array([a.GetIntProp(_INDEX) for a in heavy.GetAtoms()], np.int64)
    found = heavy.GetSubstructMatches(
        _interchangeable(heavy), uniquify=False, useChirality=False, maxMatches=max_matches + 1
    )
    capped = len(found) > max_matches
    identity = tuple(range(len(atoms)))
    others = [m for m in found[:max_matches] if m != identity]
    matches = np.array([identity, *others], np.int64).reshape(-1, len(atoms))
    return Symmetry(atoms, matches, capped)


def rmsd_matrix(
    mol: Chem.Mol,
    generated: np.ndarray,
    reference: np.ndarray,
    *,
    max_matches: int = MAX_MATCHES,
    max_seconds: float = MAX_SECONDS,
) -> RmsdMatrix:
    """All RMSDs between `generated` (G, N, 3) and `reference` (R, N, 3) positions in Å.

    Args:
        mol: N atoms, hydrogens included; its own conformers are not looked at.
        generated, reference: positions in the atom order of `mol`.
        max_matches: see `symmetry`.
        max_seconds: after this time no further assignments are tried; the result says so.

    Raises:
        ValueError: shapes that do not fit `mol`, or positions that are not finite.
    """
    generated, reference = (
        _checked(mol, p, name) for p, name in ((generated, "generated"), (reference, "reference"))
    )
    equivalent = symmetry(mol, max_matches)
    if not len(generated) or not len(reference):
        shape = (len(generated), len(reference))
        return RmsdMatrix(np.zeros(shape), len(equivalent.matches), equivalent.capped)
    a, b = (_centered(p[:, equivalent.atoms]) for p in (generated, reference))
    size = len(equivalent.atoms)
    spread = (a**2).sum((1, 2))[:, None] + (b**2).sum((1, 2))[None, :]
    best = np.full(spread.shape, -np.inf)
    # The reference is permuted once a match; every match is one matrix product over all pairs.
    flat = a.transpose(0, 2, 1).reshape(-1, size)
    step = max(1, _BLOCK // spread.size)
    start, tried = time.monotonic(), 0
    for first in range(0, len(equivalent.matches), step):
        chosen = equivalent.matches[first : first + step]
        if tried and time.monotonic() - start > max_seconds:
            break
        moved = b[:, chosen].transpose(1, 2, 0, 3).reshape(len(chosen), size, -1)
        covariance = (flat @ moved).reshape(len(chosen), len(a), 3, len(b), 3)
        overlap = _best_overlap(covariance.transpose(0, 1, 3, 2, 4))
        best = np.maximum(best, overlap.max(0))
        tried += len(chosen)
    values = np.sqrt(np.maximum(spread - 2.0 * best, 0.0) / size)
    return RmsdMatrix(values, tried, equivalent.capped, tried < len(equivalent.matches))


def rmsds(mol: Chem.Mol, one: Places, other: Places) -> np.ndarray:
    """RMSD (len(one), len(other)) in Å with fewer symmetric orders and no clock.

    For choosing among conformers, where the same seed must give the same choice.

    Args:
        mol: N atoms, hydrogens included; its own conformers are not looked at.
        one, other: arrays (N, 3) in Å in the atom order of `mol`.
    """
    empty = np.zeros((0, mol.GetNumAtoms(), 3))
    a, b = (np.asarray(p) if len(p) else empty for p in (one, other))
    return rmsd_matrix(mol, a, b, max_matches=FEW_MATCHES, max_seconds=float("inf")).values


def _interchangeable(heavy: Chem.Mol) -> Chem.Mol:
    """`heavy` as a query in which terminal conjugated O and N match each other's places."""
    query = Chem.RWMol(heavy)
    for terminal, center in heavy.GetSubstructMatches(_TERMINAL):
        query.GetAtomWithIdx(terminal).SetFormalCharge(0)
        bond = query.GetBondBetweenAtoms(terminal, center)
        query.ReplaceBond(bond.GetIdx(), _SINGLE_OR_DOUBLE.GetBondWithIdx(0))
    return query.GetMol()


def _best_overlap(covariance: np.ndarray) -> np.ndarray:
    """Largest Σ_k a_k·R b_k (...) over proper rotations R, from covariances (..., 3, 3).

    It is the largest eigenvalue of Horn's 4×4 quaternion matrix (Horn 1987), which excludes
    reflections without a case distinction.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (
        tuple(covariance[..., i, j] for j in range(3)) for i in range(3)
    )
    key = np.empty((*covariance.shape[:-2], 4, 4))
    # Only the lower triangle is read.
    key[..., 0, 0] = xx + yy + zz
    key[..., 1, 1] = xx - yy - zz
    key[..., 2, 2] = yy - xx - zz
    key[..., 3, 3] = zz - xx - yy
    key[..., 1, 0] = yz - zy
    key[..., 2, 0] = zx - xz
    key[..., 3, 0] = xy - yx
    key[..., 2, 1] = xy + yx
    key[..., 3, 1] = zx + xz
    key[..., 3, 2] = yz + zy
    return np.linalg.eigvalsh(key, UPLO="L")[..., -1]


def _centered(positions: np.ndarray) -> np.ndarray:
    return positions - positions.mean(1, keepdims=True)


def _checked(mol: Chem.Mol, positions: np.ndarray, name: str) -> np.ndarray:
    positions = np.asarray(positions, np.float64)
    if positions.ndim != 3 or positions.shape[1:] != (mol.GetNumAtoms(), 3):
        raise ValueError(
            f"{name} positions have shape {positions.shape}, not (count, {mol.GetNumAtoms()}, 3): "
            f"{Chem.MolToSmiles(mol)}"
        )
    if not np.isfinite(positions).all():
        raise ValueError(f"{name} positions are not finite: {Chem.MolToSmiles(mol)}")
    return positions
