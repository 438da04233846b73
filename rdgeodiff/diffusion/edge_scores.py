"""From scores of edges to clean positions: what makes a denoiser of the original network.

Its network gives one number s per edge, the expected (d⁰ − d)/σ, and the original adds these up
over an atom's edges. The sum grows with the number of neighbours, so it is a direction to go in by
small steps, and nothing a fast sampler could use. `distance_denoiser` therefore asks which
positions have the distances d + σ s that the scores speak of. `field_denoiser` hands the sum on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.diffusion.original_geodiff import OriginalSampling, clip_field
from rdgeodiff.geometry import center

# score(x, with_global) → scores of the edges of positions x (N, 3) of all atoms that are no padding
Score = Callable[[torch.Tensor, bool], Any]

ROUNDS = 12  # of majorisation; each starts where the last one ended
# By kind of edge: bonds, atoms two and three bonds apart, all others (near to begin with).
# How far (Å) clean distances spread around what the graph alone tells; noise is compared with it.
SPREADS = (0.1, 0.15, 0.5, 2.0)
# Å; no two atoms are closer or further apart, whatever a score says far from its training.
SHORTEST, LONGEST = 0.5, (3.0, 5.0, 7.0, 20.0)
_ANGLE, _DIHEDRAL = 23, 24  # edge types
_PULL = 1e-4  # weight of the noisy position, beside 1 for an edge; holds what no edge holds


@dataclass(frozen=True)
class Distances:
    """Wanted distances in padded form: `wanted` and `weight`, both (B, N, N) and symmetric."""

    wanted: torch.Tensor
    weight: torch.Tensor


def field_denoiser(
    score: Score, mask: torch.Tensor, settings: OriginalSampling, *, divided: bool = False
) -> Denoiser:
    """D = x + σ (local + w clip(global)), the global part below its σ only.

    `langevin` turns this back into the original's update. Of a network that was trained with
    superposed targets the sum is −ε, and this is what it expects the clean structure to be.

    Args:
        score: the network on its graphs.
        mask: (B, N) real atoms.
        settings: of the original samplers.
        divided: divide the sum by the most edges that end at one atom of the molecule, in both
            directions, so that it does not overshoot however many there are.
    """

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with_global = _uses_global(sigma, settings)
        scores = score(x[mask], with_global)
        field = clip_field(scores.local_field(), settings.clip_local)
        if with_global:
            field = field + settings.w_global * clip_field(scores.global_field(), settings.clip)
        padded = torch.zeros_like(x)
        padded[mask] = field.to(x.dtype)
        if divided:
            padded = padded / _most_edges(scores, mask, settings).view(-1, 1, 1)
        return center(x + sigma.view(-1, 1, 1) * padded, mask)

    return denoised


def distance_denoiser(score: Score, mask: torch.Tensor, settings: OriginalSampling) -> Denoiser:
    """D = the positions whose distances come closest to d + σ s, found from x by majorisation.

    Args:
        score: the network on its graphs.
        mask: (B, N) real atoms.
        settings: of the original samplers; the weight of the global branch and its σ are used.
    """

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        scores = score(x[mask], _uses_global(sigma, settings))
        wanted = clean_distances(scores, mask, sigma, settings.w_global)
        return majorize(center(x, mask), wanted, mask)

    return denoised


def clean_distances(
    scores: Any, mask: torch.Tensor, sigma: torch.Tensor, w_global: float
) -> Distances:
    """The distances d + σ s that scores speak of, and how much each is worth.

    Seen through noise σ, a distance that spreads by τ without it is known to 1/(1/σ² + 1/τ²); its
    weight 1 + (σ/τ)² is the inverse of that in units of σ². So all edges count alike at the end,
    and bonds count most where noise hides the rest.
    """
    edges = scores.edges
    local = edges.is_local
    score = torch.zeros_like(edges.length) if scores.of_global is None else scores.of_global.clone()
    score[local] = scores.of_local
    slots = mask.flatten().nonzero().squeeze(-1)
    source, target = slots[edges.index]
    rows, width = mask.shape
    level = sigma[source // width].to(edges.length.dtype)
    kind = torch.where(local, (edges.type - (_ANGLE - 1)).clamp(min=0), len(SPREADS) - 1)
    spread, longest = level.new_tensor((SPREADS, LONGEST))[:, kind]
    weight = 1.0 + (level / spread).square()
    if scores.of_global is None:
        weight = weight * local
    else:
        weight = torch.where(local, weight, w_global * weight)
    wanted = (edges.length + level * score).clamp(min=SHORTEST).minimum(longest)
    place = source * width + target % width
    total = wanted.new_zeros(2, rows * width * width)
    total.index_add_(1, place, torch.stack([weight, weight * wanted]))
    weight, weighted = (t + t.mT for t in total.view(2, rows, width, width))
    return Distances(weighted / weight.clamp(min=1e-12), weight)


def majorize(
    x: torch.Tensor, distances: Distances, mask: torch.Tensor, rounds: int = ROUNDS
) -> torch.Tensor:
    """Positions of small stress Σ w (‖y_i − y_j‖ − d)², starting from x, all (B, N, 3) in Å.

    SMACOF (de Leeuw 1977): each round solves the quadratic that touches the stress from above at
    the present positions. All rounds but the last go twice as far, which halves their number.
    A molecule whose distances are not finite comes out not finite; the others do not notice.
    """
    weight = distances.weight / distances.weight.amax((1, 2), keepdim=True).clamp(min=1e-12)
    broken = ~(weight.isfinite().all((1, 2)) & distances.wanted.isfinite().all((1, 2)))
    weight = torch.where(broken.view(-1, 1, 1), 0.0, weight)
    pull = _PULL * torch.ones_like(x[..., 0])
    system = torch.diag_embed(weight.sum(-1) + pull) - weight
    factor = torch.linalg.cholesky(system)
    y = x
    for step in range(rounds):
        length = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6)
        ratio = weight * distances.wanted / length
        forces = ratio.sum(-1, keepdim=True) * y - ratio @ y + pull.unsqueeze(-1) * x
        solved = torch.cholesky_solve(forces, factor)
        y = solved if step == rounds - 1 else 2.0 * solved - y
    return center(torch.where(broken.view(-1, 1, 1), torch.nan, y), mask)


def _most_edges(scores: Any, mask: torch.Tensor, settings: OriginalSampling) -> torch.Tensor:
    """(B,) largest number of directed edges at an atom, those of the global branch weighted."""
    edges = scores.edges
    far = 0.0 if scores.of_global is None else settings.w_global
    worth = torch.where(edges.is_local, 1.0, far).to(edges.length.dtype)
    ends = worth.new_zeros(scores.n_atoms)
    ends.index_add_(0, edges.index[0], worth).index_add_(0, edges.index[1], worth)
    padded = ends.new_zeros(mask.shape)
    padded[mask] = ends
    return padded.amax(1).clamp(min=1.0)


def _uses_global(sigma: torch.Tensor, settings: OriginalSampling) -> bool:
    """A batch walks down in step, so one level stands for all."""
    return float(sigma.max()) < settings.global_start_sigma
