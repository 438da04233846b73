"""Conformers in a notebook, to be turned with the mouse."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from rdkit import Chem

from rdgeodiff.chem.conformers import as_conformer
from rdgeodiff.pictures.superposition import superposed

SCRIPT = "3Dmol-min.js"  # of the npm package 3dmol; its licence lies beside it
COLORS = ("#3d5a73", "#b08b6a", "#5b8c7b", "#8c6d8f", "#6f9bb3", "#7b7f9e")


def ShowConformers(
    mol: Chem.Mol,
    confIds: Sequence[int] | None = None,
    *,
    align: bool = True,
    hydrogens: bool = False,
    size: tuple[int, int] = (500, 400),
    offline: bool = True,
) -> Any:
    """A py3Dmol view of conformers laid over each other; show it by making it a cell's last line.

    `ShowConformers(mol).write_html("view.html")` writes it as a page of its own.

    Args:
        mol: with conformers; it stays as it is.
        confIds: which ones; all by default.
        align: lay them over each other on a rigid part.
        hydrogens: show hydrogens too.
        size: width and height in pixels.
        offline: put 3Dmol.js into the output, 0.7 MB; otherwise the browser that shows the output
            fetches it from the address py3Dmol names.

    Raises:
        ImportError: py3Dmol is not installed.
        ValueError: no conformers, or none with such an id.
    """
    try:
        import py3Dmol
    except ImportError:
        message = "ShowConformers needs py3Dmol: pip install 'rdgeodiff[notebook]'"
        raise ImportError(message) from None
    shown = chosen(mol, confIds)
    shown = shown if hydrogens else Chem.RemoveHs(shown)
    positions = (
        superposed(shown) if align else np.array([c.GetPositions() for c in shown.GetConformers()])
    )
    source = {"js": _script_url()} if offline else {}
    view = py3Dmol.view(width=size[0], height=size[1], **source)
    # A bare copy: a name that a file may set would end up in the page's script.
    bare = Chem.Mol(shown.ToBinary(int(Chem.PropertyPickleOptions.NoProps)))
    Chem.ClearMolSubstanceGroups(bare)
    for k, points in enumerate(positions):
        model = Chem.Mol(bare)
        model.RemoveAllConformers()
        model.AddConformer(as_conformer(points))
        view.addModel(Chem.MolToMolBlock(model), "sdf")
        view.setStyle({"model": -1}, {"stick": {"radius": 0.12}})
        carbon = {"stick": {"radius": 0.12, "color": COLORS[k % len(COLORS)]}}
        view.setStyle({"model": -1, "elem": "C"}, carbon)
    view.zoomTo()
    return view


@functools.cache
def _script_url() -> str:
    """3Dmol.js as a data URL, which a browser runs without a network."""
    script = (resources.files("rdgeodiff.pictures") / SCRIPT).read_bytes()
    return "data:text/javascript;base64," + base64.b64encode(script).decode("ascii")


def chosen(mol: Chem.Mol, conf_ids: Sequence[int] | None) -> Chem.Mol:
    """A copy with these conformers only, in this order.

    Raises:
        ValueError: no conformers, or none with such an id.
    """
    there = {c.GetId(): c for c in mol.GetConformers()}
    wanted = list(there) if conf_ids is None else [int(i) for i in conf_ids]
    if missing := [i for i in wanted if i not in there]:
        raise ValueError(f"no conformer with id {missing[0]}; there are {sorted(there)}")
    if not wanted:
        raise ValueError("the molecule has no conformers to show: embed it first")
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for i in wanted:
        copy.AddConformer(Chem.Conformer(there[i]), assignId=True)
    return copy
