"""The reverse diffusion of one conformer as an animated GIF: from noise to structure."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from rdgeodiff.checkpoint import load_model
from rdgeodiff.chem.conformers import as_conformer, with_hydrogens
from rdgeodiff.chem.featurize import featurize
from rdgeodiff.chem.validate import describe, fault
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.model_file import Model
from rdgeodiff.pictures.grid import INSTRUCTION, draw_conformers, with_layout
from rdgeodiff.pictures.superposition import superposed

COURSE = 48  # frames from noise to structure, or a little more or less
TURN = 36  # frames in which the finished conformer turns round once
COLORS = 48  # of the GIF's palette


@dataclass(frozen=True)
class Trajectory:
    """Noise levels σ (S,) and positions (S, N, 3), both in Å; the last σ is 0."""

    sigmas: np.ndarray
    positions: np.ndarray


def AnimateDiffusion(
    mol: Chem.Mol,
    path: str | os.PathLike[str],
    *,
    randomSeed: int = 7,
    model: str = "default",
    steps: int = 0,
    pixels: int = 360,
    frameSeconds: float = 0.08,
) -> None:
    """Write a GIF of the reverse diffusion of one conformer, which then turns round once.

    What is shown is the sampler's state at each noise level, without hydrogens. The sample is raw:
    it is not checked, as conformers that are embedded are.

    Args:
        mol: it stays as it is; of a mixture the largest fragment is shown.
        path: of the GIF.
        randomSeed: another seed, another conformer.
        model: name or path.
        steps: noise levels; 0 for the model's own.
        pixels: side of the picture.
        frameSeconds: time a frame is shown.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
        ValueError: a molecule that cannot be attempted, or a model of heavy atoms alone.
        CheckpointError: no such model.
    """
    if (found := fault(mol)) is not None:
        raise ValueError(f"{describe(mol, 0)}: {found[1]}")
    main = with_hydrogens(max(Chem.GetMolFrags(mol, asMols=True), key=Chem.Mol.GetNumAtoms))
    course = diffusion_trajectory(main, load_model(model, "cpu"), randomSeed, steps)
    shown, places = _facing(main, course.positions)
    images = [
        _frame(shown, points, half, label, pixels) for points, half, label in _views(course, places)
    ]
    # One palette for all frames: without it the colours of still parts flicker.
    palette = images[-1].quantize(COLORS)
    frames = [image.quantize(palette=palette, dither=0) for image in images]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=int(1000 * frameSeconds),
        loop=0,
        optimize=True,
    )


def diffusion_trajectory(mol: Chem.Mol, model: Model, seed: int, steps: int = 0) -> Trajectory:
    """Sample one conformer and keep what the sampler held at each noise level.

    Args:
        mol: one fragment with hydrogens.
        model: on the CPU.
        seed: of the noise.
        steps: noise levels; 0 for the model's own.

    Raises:
        ValueError: a model of heavy atoms, or of the last of the noise, alone.
    """
    if model.complete is not model:
        other = f": take {model.complete.name!r}" if model.complete else ""
        raise ValueError(f"the model {model.name!r} cannot be watched drawing all atoms{other}")
    graphs = MolBatch.collate([featurize(mol)])
    stream = np.random.default_rng(seed)
    name = model.sampling.sampler
    sigmas = model.process.noise_levels(model.sampling, name, steps, mol.GetNumAtoms())
    seen: list[tuple[float, np.ndarray]] = []

    def noise(step: int) -> torch.Tensor:
        drawn = stream.standard_normal((*graphs.mask.shape, 3), dtype=np.float32)
        scale = model.sampling.noise_scale if step >= 0 else 1.0
        return scale * center(torch.from_numpy(drawn), graphs.mask)

    def watch(step: int, sigma: float, x: torch.Tensor, denoised: torch.Tensor) -> None:
        seen.append((sigma, x[0].double().numpy()))

    with torch.inference_mode():
        denoiser = model.bind(graphs, name)
        start = sigmas[0] * noise(-1)
        end = model.process.sampler(name)(denoiser, start, sigmas, noise=noise, callback=watch)
    seen.append((0.0, end[0].double().numpy()))
    return Trajectory(np.array([s for s, _ in seen]), np.array([p for _, p in seen]))


def _facing(mol: Chem.Mol, positions: np.ndarray) -> tuple[Chem.Mol, np.ndarray]:
    """The heavy atoms, and all positions (S, N, 3) turned so that the last faces as the drawing."""
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    shown = Chem.RemoveHs(mol)
    if shown.GetNumAtoms() != len(heavy):  # hydrogens that RDKit keeps, as in H2
        heavy, shown = list(range(mol.GetNumAtoms())), Chem.Mol(mol)
    last = positions[-1, heavy]
    shown.RemoveAllConformers()
    shown.AddConformer(as_conformer(last))
    turned = superposed(shown, with_layout(shown))[0]
    c, t = last.mean(0), turned.mean(0)
    u, _, vt = np.linalg.svd((last - c).T @ (turned - t))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return shown, (positions[:, heavy] - c) @ (u @ vt)


def _views(course: Trajectory, places: np.ndarray) -> Iterator[tuple[np.ndarray, float, str]]:
    """(positions, half the side in Å, label) of every frame."""
    size = max(float(np.abs(places[-1]).max()) + 0.8, 3.5)
    steps = len(places) - 1
    between = max(round(COURSE / steps), 1)
    for k in range(steps):
        for part in np.arange(between) / between:
            points = (1 - part) * places[k] + part * places[k + 1]
            sigma = (1 - part) * course.sigmas[k] + part * course.sigmas[k + 1]
            # The camera comes nearer as the cloud shrinks; most of a cloud lies within 2 σ.
            yield points, size + 2.0 * sigma, f"noise σ = {sigma:.2f} Å"
    for angle in np.linspace(0.0, 2.0 * np.pi, TURN + 1):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        yield places[-1] @ turn, size, "conformer"


def _frame(mol: Chem.Mol, points: np.ndarray, half: float, label: str, pixels: int) -> Any:
    try:
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError:
        raise ImportError(INSTRUCTION) from None
    figure = Figure(figsize=(pixels / 100, pixels / 100), facecolor="white")
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axis.axis("off")
    draw_conformers(axis, mol, points[None], half=half)
    axis.text(0.03, 0.03, label, transform=axis.transAxes, fontsize=10, color="#666666")
    held = io.BytesIO()
    figure.savefig(held, dpi=100)
    held.seek(0)
    return Image.open(held).convert("RGB")
