"""A static picture of conformer ensembles: 2D structures beside their superposed conformers.

Drawn with RDKit, matplotlib and Pillow alone, without pyplot: it works on a machine without a
display and leaves a notebook's settings as they are.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdCoordGen
from rdkit.Chem.Draw import rdMolDraw2D

from rdgeodiff.pictures.superposition import superposed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INSTRUCTION = "pictures need matplotlib and pillow: pip install 'rdgeodiff[notebook]'"
PANEL = 3.0  # inches
ELEMENT_COLORS = {
    "H": "#d9d9d9",
    "N": "#2f5fe0",
    "O": "#e0342f",
    "F": "#3fae6a",
    "Cl": "#2e9e3a",
    "Br": "#9c4a2f",
    "I": "#7a2f9c",
    "S": "#e2b007",
    "P": "#e8801a",
    "B": "#f2a6a0",
    "Si": "#c8a878",
}
CARBON_COLORS = ("#3d5a73", "#6f9bb3", "#8c6d8f", "#5b8c7b", "#b08b6a", "#7b7f9e")


def DrawConformerGrid(
    mols: Sequence[Chem.Mol | None],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    columns: int = 2,
    dpi: int = 110,
) -> None:
    """Write a PNG with the 2D structure and the superposed conformers of every molecule.

    Args:
        mols: with conformers or without; None, too, gets its place, so that a picture of a library
            shows what is missing. Of a mixture the largest fragment is drawn.
        path: of the picture.
        names: titles; the molecules' own by default.
        columns: molecules in a row.
        dpi: dots per inch; a molecule takes 6 × 3 inches.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
        ValueError: no molecules, no columns, or as many names as molecules were not given.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(INSTRUCTION) from None
    if not mols or columns < 1:
        raise ValueError("a picture needs at least one molecule and one column")
    if names is not None and len(names) != len(mols):
        raise ValueError(f"{len(names)} names for {len(mols)} molecules")
    columns = min(columns, len(mols))
    rows = -(-len(mols) // columns)
    figure = Figure(figsize=(2 * columns * PANEL, rows * (PANEL + 0.25)), facecolor="white")
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for k, mol in enumerate(mols):
        row, column = divmod(k, columns)
        flat, deep = axes[row, 2 * column], axes[row, 2 * column + 1]
        title = names[k] if names is not None else _title(mol, k)
        # A $ would switch matplotlib to formulas.
        flat.set_title(title.replace("$", r"\$"), fontsize=13, loc="left", pad=2)
        count = mol.GetNumConformers() if mol is not None else 0
        told = "no molecule" if mol is None else f"{count} conformer{'s' * (count != 1)}"
        deep.set_title(told, fontsize=10, loc="left", pad=2, color="#666666")
        if mol is None or not mol.GetNumAtoms():
            continue
        main = largest_fragment(mol)
        depiction = with_layout(main)
        flat.imshow(structure_image(depiction))
        if count:
            draw_conformers(deep, main, superposed(main, depiction))
    figure.subplots_adjust(0.01, 0.01, 0.99, 1.0 - 0.3 / (rows * (PANEL + 0.25)), 0.03, 0.12)
    figure.savefig(path, dpi=dpi)


def _title(mol: Chem.Mol | None, k: int) -> str:
    return mol.GetProp("_Name") if mol is not None and mol.HasProp("_Name") else f"molecule {k}"


def largest_fragment(mol: Chem.Mol) -> Chem.Mol:
    """The fragment with most atoms, without hydrogens (with them, where it has nothing else)."""
    return Chem.RemoveHs(max(Chem.GetMolFrags(mol, asMols=True), key=Chem.Mol.GetNumAtoms))


def with_layout(mol: Chem.Mol) -> Chem.Mol:
    """A copy laid out in two dimensions."""
    copy = Chem.Mol(mol)
    rdCoordGen.AddCoords(copy)
    return copy


def structure_image(depiction: Chem.Mol, pixels: int = 600) -> Any:
    """The 2D structure as a Pillow image."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(INSTRUCTION) from None
    drawer = rdMolDraw2D.MolDraw2DCairo(pixels, pixels)
    options: Any = drawer.drawOptions()
    options.fixedBondLength = 62
    options.bondLineWidth = 3
    options.padding = 0.03
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, depiction)
    drawer.FinishDrawing()
    return Image.open(io.BytesIO(drawer.GetDrawingText()))


def draw_conformers(
    axis: Axes, mol: Chem.Mol, positions: np.ndarray, *, half: float | None = None
) -> None:
    """Sticks, coloured by element (carbons by conformer), nearer ones broader and stronger.

    Args:
        axis: of matplotlib.
        mol: its bonds and elements are drawn; atoms without bonds as dots.
        positions: (C, N, 3) in Å; z points to the viewer.
        half: half the side of the square that is shown, in Å; by default all fits in.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    low, high = positions[..., 2].min(), positions[..., 2].max()
    sticks: list[tuple[float, np.ndarray, np.ndarray]] = []
    for k, points in enumerate(positions):
        carbon = CARBON_COLORS[k % len(CARBON_COLORS)]
        for bond in mol.GetBonds():
            ends = (bond.GetBeginAtom(), bond.GetEndAtom())
            line = np.array([points[atom.GetIdx()] for atom in ends])
            colors = [to_rgb(ELEMENT_COLORS.get(atom.GetSymbol(), carbon)) for atom in ends]
            depth = float(line[:, 2].mean() - low) / max(float(high - low), 1e-6)
            sticks.append((depth, line[:, :2], np.array(colors)))
    sticks.sort(key=lambda stick: stick[0])

    extent = positions[..., :2].reshape(-1, 2)
    middle_xy = 0.5 * (extent.min(0) + extent.max(0))
    if half is None:
        half = max(0.5 * float((extent.max(0) - extent.min(0)).max()) + 0.8, 4.5)
    scale = (6.0 / half) ** 0.7
    segments, tints, widths = [], [], []
    for depth, (start, stop), pair in sticks:
        middle = 0.5 * (start + stop)
        width = (2.4 + 2.2 * depth) * scale
        faded = pair + (1.0 - pair) * 0.55 * (1.0 - depth)
        # A dark rim under each stick tells which of two crossing ones is in front.
        segments += [(start, stop), (start, middle), (middle, stop)]
        tints += [tuple(0.6 * faded.mean(0)), tuple(faded[0]), tuple(faded[1])]
        widths += [width + 0.9, width, width]
    axis.add_collection(LineCollection(segments, colors=tints, linewidths=widths, capstyle="round"))
    for atom in mol.GetAtoms():
        if not atom.GetDegree():
            color = ELEMENT_COLORS.get(atom.GetSymbol(), CARBON_COLORS[0])
            x, y = positions[:, atom.GetIdx(), :2].T
            axis.scatter(x, y, s=200, color=color)
    axis.set_xlim(middle_xy[0] - half, middle_xy[0] + half)
    axis.set_ylim(middle_xy[1] - half, middle_xy[1] + half)
    axis.set_aspect("equal")
