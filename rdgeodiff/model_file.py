"""One model on disk: safetensors weights beside a JSON that describes and seals them.

Nothing is downloaded and nothing is unpickled. A model is `NAME.safetensors` + `NAME.json`; the
JSON holds the network's configuration, the SHA-256 of the weights, how to sample from it, what it
was trained on and what was measured of it. Of other models that it names `rdgeodiff.checkpoint`
takes care.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn

from rdgeodiff.architectures import FieldProcess, Process, architecture
from rdgeodiff.diffusion.autoguidance import Guidance, guide_away
from rdgeodiff.diffusion.denoiser import Denoiser
from rdgeodiff.graph import MolBatch
from rdgeodiff.sampling import Sampling

FORMAT = 1
LARGEST = 10_000  # of any whole number in a network's configuration
DEFAULT_MODEL = "small"
_HERE = Path(__file__).resolve().parent


class CheckpointError(ValueError):
    """Weights that are missing, damaged, or not of the network they claim; names the file."""


@dataclass(frozen=True)
class Model:
    """A network ready to denoise, with everything known of it.

    Attributes:
        name: of the file, without ending.
        network: in evaluation mode, on its device.
        sampling: defaults for drawing conformers.
        info: the JSON beside the weights.
        process: how a network of its kind is sampled.
        guide: a worse model to be led away from, and how.
        finish: of a model of heavy atoms: the one of all atoms that settles what it has drawn, and
            the noise levels in Å on which it does (`rdgeodiff.heavy_first`).
        whole: of a model that knows the last of the noise alone, and finishes what others have
            drawn: the one that knows all of it.
    """

    name: str
    network: nn.Module
    sampling: Sampling
    info: dict[str, Any]
    process: Process = field(default_factory=FieldProcess)
    guide: tuple[Model, Guidance] | None = None
    finish: tuple[Model, tuple[float, ...]] | None = None
    whole: Model | None = None

    @property
    def heavy_atoms(self) -> bool:
        """Whether it was trained on molecules without their hydrogens."""
        return bool(self.info.get("heavy_atoms", False))

    @property
    def complete(self) -> Model | None:
        """The model that draws all atoms from pure noise: this one, or the one that has to where
        this one cannot; None where none is named."""
        if self.whole is not None:
            return self.whole
        if self.heavy_atoms:
            return self.finish[0].complete if self.finish else None
        return self

    def bind(
        self, graphs: MolBatch, sampler: str, bf16: bool = False, weight: float = -1.0
    ) -> Denoiser:
        """A denoiser of one batch, guided if the model has a guide.

        Args:
            graphs: the batch.
            sampler: name of the sampler that will call it.
            bf16: matrix products in bfloat16.
            weight: of the guidance instead of the model's own; 0 is none, negative the model's.
        """
        denoiser = self.process.bind(self.network, graphs, sampler, bf16)
        if self.guide is None:
            return denoiser
        worse, guidance = self.guide
        if weight >= 0:
            guidance = dataclasses.replace(guidance, weight=weight)
        against = worse.process.bind(worse.network, graphs, sampler, bf16)
        return guide_away(denoiser, against, guidance, graphs.n_atoms)


def weights_folder() -> Path:
    """Where the shipped models lie: in the installed package, or beside it in a checkout."""
    packaged = _HERE / "weights"
    return packaged if packaged.is_dir() else _HERE.parent / "weights"


def list_models() -> list[str]:
    """Names of the shipped models."""
    return sorted(
        p.stem for p in weights_folder().glob("*.json") if p.with_suffix(".safetensors").exists()
    )


def read_model(description: Path, device: str | torch.device) -> Model:
    """Read and verify the model of this JSON alone, without those that it names; raises as
    `rdgeodiff.checkpoint.load_model` does."""
    info = _read_json(description)
    weights = description.with_suffix(".safetensors")
    try:
        blob = weights.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{weights}: cannot be read ({error})") from error
    if hashlib.sha256(blob).hexdigest() != info.get("sha256"):
        raise CheckpointError(
            f"{weights}: SHA-256 differs from the one in {description.name}; the file is damaged "
            "or from another model: restore both files from their source"
        )
    try:
        tensors = load(blob)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{weights}: not a safetensors file ({error})") from error
    try:
        kind = architecture(info["architecture"])
        config = kind.config(**info["network"])
        _check_size(config, lambda: kind.network(config), tensors)
        network = kind.network(config)
        own = network.state_dict().keys()
        network.load_state_dict({k: v for k, v in tensors.items() if k in own}, strict=True)
        process = kind.process(info, {k: v for k, v in tensors.items() if k not in own})
        sampling = Sampling(**info.get("sampling", {}))
    except Exception as error:  # a wrong value in the description fails anywhere, as anything
        raise CheckpointError(f"{description}: does not describe its weights ({error})") from error
    network = network.to(device).eval().requires_grad_(False)
    return Model(description.stem, network, sampling, info, process)


def save_model(
    stem: str | os.PathLike[str],
    network: nn.Module,
    info: dict[str, Any],
    process: Process | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write `stem`.safetensors and `stem`.json; returns the path of the JSON.

    Args:
        stem: path without ending.
        network: of a known architecture, its averaged weights already loaded.
        info: added to the JSON: "sampling", "training", "figures", …
        process: how it is sampled, if that takes more than its weights.
        half: store float16, half the space; a network computes in single precision all the same.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    weights = stem.with_name(stem.name + ".safetensors")
    kind = architecture(type(network).__name__)
    own = network.state_dict()
    tensors = {**own, **(process.tensors() if process is not None else {})}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, weights)
    sealed = {
        "format": FORMAT,
        "architecture": type(network).__name__,
        "network": dataclasses.asdict(network.config),  # type: ignore[call-overload]
        **kind.description,
        "parameters": sum(v.numel() for v in own.values()),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "sampling": dataclasses.asdict(kind.sampling),
        **info,
    }
    description = stem.with_name(stem.name + ".json")
    description.write_text(json.dumps(sealed, indent=2) + "\n")
    return description


def locate(name: str | os.PathLike[str]) -> Path:
    """The JSON of a shipped model, "default" included, or of a path with either ending.

    Raises:
        CheckpointError: no such model is shipped.
    """
    text = os.fspath(name)
    if text.endswith((".json", ".safetensors")):
        return Path(text).with_suffix(".json")
    description = weights_folder() / f"{DEFAULT_MODEL if text == 'default' else text}.json"
    if not description.exists():
        known = ", ".join(list_models()) or "none"
        raise CheckpointError(f"no model named {text!r}; shipped models: {known}")
    return description


def _check_size(
    config: Any, build: Callable[[], nn.Module], tensors: dict[str, torch.Tensor]
) -> None:
    """CheckpointError for a network larger than its weights, before memory is taken for it."""
    for name, value in vars(config).items():
        if isinstance(value, int) and not 0 <= value <= LARGEST:
            raise CheckpointError(f"{name} is {value}")
    with torch.device("meta"):
        needed = sum(v.numel() for v in build().state_dict().values())
    stored = sum(v.numel() for v in tensors.values())
    if needed > stored:
        raise CheckpointError(f"the network has {needed} numbers, the file {stored}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a model description of format {FORMAT}")
    try:
        architecture(info.get("architecture"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return info
