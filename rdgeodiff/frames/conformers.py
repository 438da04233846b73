"""Conformers for the molecules of a frame, and a row for each conformer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from rdgeodiff.chem.conformers import ENERGY
from rdgeodiff.embed import EmbedMoleculesDiffusion, Params
from rdgeodiff.frames.cells import cells_of, missing, objects, pd
from rdgeodiff.results import EmbedResult


def AddConformersToFrame(
    frame: pd.DataFrame,
    smilesCol: Hashable | None = None,
    molCol: Hashable = "ROMol",
    numConfs: int | Sequence[int] = 10,
    params: Params = None,
    errorCol: Hashable | None = "Error",
    inplace: bool = True,
    addHs: bool = True,
    **overrides: Any,
) -> pd.DataFrame | None:
    """Add conformers to the molecules of a frame.

    Rows, their order and the index stay as they are. A row that fails keeps its cell, without
    conformers, and the cause goes to `errorCol`.

    Args:
        frame: any index, duplicate labels included.
        smilesCol: make the molecules from here, into `molCol`; by default they are there already.
        molCol: column of molecules. Those that lack hydrogens are replaced by copies with them.
            One Mol in several rows becomes several.
        numConfs: conformers wanted of each, or one number per row.
        params: as in `EmbedMoleculeDiffusion`.
        errorCol: column for sentences and counted causes, None where all went well; replaced if it
            is there. None for no such column.
        inplace: change `frame` and its molecules; otherwise leave both alone and return a new one.
        addHs: add the hydrogens that are missing.
        **overrides: single parameters by name, as in `EmbedMoleculeDiffusion`.

    Returns:
        The new frame; None if `inplace`.

    Raises:
        KeyError: no such column.
        TypeError, ValueError: as `EmbedMoleculesDiffusion`, or a column title that is not unique.
    """
    cells = cells_of(frame, molCol if smilesCol is None else smilesCol)
    read = _mol_of_cell if smilesCol is None else _mol_of_smiles
    mols: list[Chem.Mol | None] = []
    errors: list[str | None] = []
    seen: set[int] = set()
    for cell in cells:
        mol, error = read(cell)
        if mol is not None:
            # Two rows that share a Mol would share their conformers.
            fresh = not inplace or id(mol) in seen
            seen.add(id(mol))
            mol = Chem.Mol(mol) if fresh else mol
            mol = _with_hydrogens(mol) if addHs else mol
        mols.append(mol)
        errors.append(error)
    results = EmbedMoleculesDiffusion(mols, numConfs, params, **overrides)
    told = [e or _why(r) for e, r in zip(errors, results, strict=True)]
    kept = mols
    if smilesCol is None:
        kept = [c if m is None else m for c, m in zip(cells, mols, strict=True)]
    target = frame if inplace else frame.copy()
    target[molCol] = objects(kept, target.index)
    if errorCol is not None:
        target[errorCol] = objects(told, target.index)
    return None if inplace else target


def ExplodeConformers(
    frame: pd.DataFrame,
    molCol: Hashable = "ROMol",
    confIdCol: Hashable = "ConformerId",
    energyCol: Hashable = "Energy",
    keepEmpty: bool = True,
) -> pd.DataFrame:
    """A frame with one row per conformer; `frame` stays as it is.

    Args:
        frame: with molecules.
        molCol: their column; each molecule of the result has one conformer, which keeps its id.
        confIdCol: new column for the id of the conformer.
        energyCol: new column for energies in kcal/mol, where conformers have the property
            `rdgeodiff_energy`.
        keepEmpty: a row without conformers stays, with a missing id, as `DataFrame.explode` does.

    Returns:
        Rows in the order of `frame` and of the conformers; labels of the index are repeated.

    Raises:
        KeyError: no such column.
        ValueError: a new column is there already.
    """
    cells = cells_of(frame, molCol)
    rows: list[int] = []
    mols: list[Any] = []
    ids: list[Any] = []
    energies: list[float] = []
    for row, cell in enumerate(cells):
        conformers = cell.GetConformers() if isinstance(cell, Chem.Mol) else ()
        for conformer in conformers:
            rows.append(row)
            mols.append(Chem.Mol(cell, confId=conformer.GetId()))
            ids.append(conformer.GetId())
            has = conformer.HasProp(ENERGY)
            energies.append(conformer.GetDoubleProp(ENERGY) if has else float("nan"))
        if keepEmpty and not len(conformers):
            rows.append(row)
            mols.append(cell)
            ids.append(pd.NA)
            energies.append(float("nan"))
    exploded = frame.iloc[rows].copy()
    new: dict[Hashable, Any] = {confIdCol: pd.array(ids, dtype="Int64")}
    if not np.isnan(energies).all():
        new[energyCol] = np.array(energies)
    for title, values in new.items():
        if title in frame.columns:
            raise ValueError(f"the frame has a column {title!r} already: name another one")
        exploded[title] = values
    exploded[molCol] = objects(mols, exploded.index)
    return exploded


def _mol_of_cell(cell: Any) -> tuple[Chem.Mol | None, str | None]:
    if isinstance(cell, Chem.Mol):
        return cell, None
    if missing(cell):
        return None, "INVALID_INPUT: the cell is empty"
    hint = " (name the column of SMILES as smilesCol)" if isinstance(cell, str) else ""
    return None, f"INVALID_INPUT: {cell!r} is a {type(cell).__name__}, not a Mol{hint}"


def _mol_of_smiles(cell: Any) -> tuple[Chem.Mol | None, str | None]:
    if missing(cell) or (isinstance(cell, str) and not cell.strip()):
        return None, "INVALID_INPUT: the cell is empty"
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(cell) if isinstance(cell, str) else None
    if mol is None:
        return None, f"INVALID_INPUT: {cell!r} is not a SMILES RDKit accepts"
    return mol, None


def _with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """`mol` itself where it has all its hydrogens, or cannot say."""
    try:
        with rdBase.BlockLogs():
            posed = mol.GetNumConformers() > 0
            return Chem.AddHs(mol, addCoords=posed) if Chem.NeedsHs(mol) else mol
    except RuntimeError:  # not sanitised; the embedding call says so
        return mol


def _why(result: EmbedResult) -> str | None:
    if result.ok:
        return None
    causes = ", ".join(f"{cause} {n}" for cause, n in result.failures.items() if n)
    if result.error is not None:
        return f"{next(iter(result.failures), '')}: {result.error}".removeprefix(": ")
    return f"{len(result.conf_ids)} of {result.requested} conformers; missing: {causes}"
