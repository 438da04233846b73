"""Pictures of conformer ensembles: the 2D structure beside its superposed conformers.

Drawn with RDKit, matplotlib and Pillow alone, so it works on a machine without a display.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

COLUMNS = 2  # molecules in a row
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


def draw_grid(molecules: list[tuple[str, Chem.Mol]], path: Path) -> None:
    """Write a PNG with a pair of panels for every (name, Mol with conformers)."""
    rows = -(-len(molecules) // COLUMNS)
    figure, axes = plt.subplots(
        rows,
        2 * COLUMNS,
        figsize=(2 * COLUMNS * PANEL, rows * (PANEL + 0.25)),
        squeeze=False,
        facecolor="white",
    )
    for axis in axes.flat:
        axis.axis("off")
    for k, (name, mol) in enumerate(molecules):
        row, column = divmod(k, COLUMNS)
        flat, deep = axes[row, 2 * column], axes[row, 2 * column + 1]
        main = Chem.RemoveHs(max(Chem.GetMolFrags(mol, asMols=True), key=Chem.Mol.GetNumAtoms))
        depiction = Chem.Mol(main)
        rdDepictor.SetPreferCoordGen(True)
        rdDepictor.Compute2DCoords(depiction)
        flat.imshow(structure_image(depiction))
        count = main.GetNumConformers()
        flat.set_title(name, fontsize=13, loc="left", pad=2)
        deep.set_title(f"{count} conformers", fontsize=10, loc="left", pad=2, color="#666666")
        draw_conformers(deep, main, superposed(main, depiction))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.97, wspace=0.03, hspace=0.12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def structure_image(depiction: Chem.Mol, pixels: int = 600) -> Image.Image:
    """The 2D structure as a picture."""
    drawer = rdMolDraw2D.MolDraw2DCairo(pixels, pixels)
    options = drawer.drawOptions()
    options.fixedBondLength = 62
    options.bondLineWidth = 3
    options.padding = 0.03
    options.prepareMolsBeforeDrawing = True
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, depiction)
    drawer.FinishDrawing()
    return Image.open(io.BytesIO(drawer.GetDrawingText()))


def superposed(mol: Chem.Mol, depiction: Chem.Mol) -> np.ndarray:
    """Conformers (C, N, 3) in Å laid over each other on a rigid part, facing as the 2D drawing."""
    positions = np.array([c.GetPositions() for c in mol.GetConformers()])
    core = rigid_core(mol)
    # The conformer nearest to all others is the one to lie on.
    spread = [sum(rmsd(fit(p, q, core), q) for q in positions) for p in positions]
    reference = positions[int(np.argmin(spread))]
    laid = np.array([fit_symmetric(mol, p, reference, core) for p in positions])
    page = depiction.GetConformer().GetPositions()
    page[:, 2] = 0.0
    rotation, _, middle = kabsch(laid.mean(0), page)
    return (laid - middle) @ rotation


def rigid_core(mol: Chem.Mol) -> list[int]:
    """Atoms of the most central part without rotatable bonds, and the atoms bonded to it."""
    parts: list[set[int]] = [{a.GetIdx()} for a in mol.GetAtoms()]
    for bond in mol.GetBonds():
        if bond.IsInRing() or bond.GetBondType() != Chem.BondType.SINGLE:
            ends = {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
            touched = [p for p in parts if p & ends]
            parts = [p for p in parts if not p & ends] + [set().union(*touched)]
    bonds_apart = Chem.GetDistanceMatrix(mol)
    core = min(parts, key=lambda part: bonds_apart[list(part)].min(0).sum())
    around = {n.GetIdx() for i in core for n in mol.GetAtomWithIdx(i).GetNeighbors()}
    return sorted(core | around)


def kabsch(mobile: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation R and centroids so that (mobile − c) R lies best on target − t: (R, t, c)."""
    c, t = mobile.mean(0), target.mean(0)
    u, _, vt = np.linalg.svd((mobile - c).T @ (target - t))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return u @ vt, t, c


def fit(mobile: np.ndarray, target: np.ndarray, atoms: list[int]) -> np.ndarray:
    """All of `mobile`, moved so that `atoms` lie on those of `target`."""
    rotation, t, c = kabsch(mobile[atoms], target[atoms])
    return (mobile - c) @ rotation + t


def fit_symmetric(
    mol: Chem.Mol, mobile: np.ndarray, target: np.ndarray, atoms: list[int]
) -> np.ndarray:
    """As `fit`, with equivalent atoms (the two sides of a phenyl) named so that they lie best."""
    orders = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=200)
    moved = (fit(mobile[list(order)], target, atoms) for order in orders)
    return min(moved, key=lambda points: rmsd(points[atoms], target[atoms]) + rmsd(points, target))


def rmsd(points: np.ndarray, target: np.ndarray) -> float:
    """RMSD in Å as they lie."""
    return float(np.sqrt(((points - target) ** 2).sum(-1).mean()))


def draw_conformers(axis: Axes, mol: Chem.Mol, positions: np.ndarray) -> None:
    """Sticks, coloured by element (carbons by conformer), nearer ones broader and stronger."""
    low, high = positions[..., 2].min(), positions[..., 2].max()
    sticks = []
    for k, points in enumerate(positions):
        carbon = CARBON_COLORS[k % len(CARBON_COLORS)]
        for bond in mol.GetBonds():
            ends = (bond.GetBeginAtom(), bond.GetEndAtom())
            line = np.array([points[atom.GetIdx()] for atom in ends])
            pair = [to_rgb(ELEMENT_COLORS.get(atom.GetSymbol(), carbon)) for atom in ends]
            depth = float(line[:, 2].mean() - low) / max(float(high - low), 1e-6)
            sticks.append((depth, line[:, :2], np.array(pair)))
    sticks.sort(key=lambda stick: stick[0])

    extent = positions[..., :2].reshape(-1, 2)
    middle_xy = 0.5 * (extent.min(0) + extent.max(0))
    half = max(0.5 * float((extent.max(0) - extent.min(0)).max()) + 0.8, 4.5)
    scale = (6.0 / half) ** 0.7
    segments, colors, widths = [], [], []
    for depth, (start, stop), pair in sticks:
        middle = 0.5 * (start + stop)
        width = (2.4 + 2.2 * depth) * scale
        faded = pair + (1.0 - pair) * 0.55 * (1.0 - depth)
        # A dark rim under each stick tells which of two crossing ones is in front.
        segments += [(start, stop), (start, middle), (middle, stop)]
        colors += [tuple(0.6 * faded.mean(0)), tuple(faded[0]), tuple(faded[1])]
        widths += [width + 0.9, width, width]
    axis.add_collection(
        LineCollection(segments, colors=colors, linewidths=widths, capstyle="round")
    )
    axis.set_xlim(middle_xy[0] - half, middle_xy[0] + half)
    axis.set_ylim(middle_xy[1] - half, middle_xy[1] + half)
    axis.set_aspect("equal")
