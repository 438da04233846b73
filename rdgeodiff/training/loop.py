"""The training loop: one process, resumable at any minute, on CPU or GPU, without RDKit."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from rdgeodiff.architectures import architecture
from rdgeodiff.data.shards import Shard, read_shard
from rdgeodiff.diffusion.objectives import Pairing
from rdgeodiff.graph import MolBatch, is_hydrogen
from rdgeodiff.nn.graph_field import GraphFieldNetwork
from rdgeodiff.nn.theories import Theories
from rdgeodiff.precision import takes_bf16
from rdgeodiff.training.batches import TrainingBatch
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.losses import loss_of, optimizers_of, pairing_of
from rdgeodiff.training.resident import mixture_on
from rdgeodiff.training.skeletons import strip
from rdgeodiff.training.start import begin_with
from rdgeodiff.training.state import load_state, pack_optimizer, save_state, unpack_optimizer
from rdgeodiff.training.teaching import Teaching, teaching

logger = logging.getLogger(__name__)

VALIDATION_SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # Å


class Trainer:
    """One run in one folder: config.json, log.jsonl, state/ and, on request, averaged weights.

    Args:
        config: what to compute.
        folder: where the run lives; an existing state in it is continued.
        device: torch device.
        compiled: compile the network's layers (worth it for runs longer than some minutes). They
            are alike, so that one is compiled and all are run; a whole network takes four times as
            long to compile and is no faster afterwards.
        bf16: autocast the network to bfloat16; None: where the device computes in it. Both are for
            a `GraphFieldNetwork`; another one, whose arrays have a new size in every batch, runs as
            it is and in float32.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path,
        *,
        device: str = "cpu",
        compiled: bool = True,
        bf16: bool | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.device = torch.device(device)
        self.bf16 = takes_bf16(self.device) if bf16 is None else bf16
        torch.manual_seed(config.seed)
        self.network = architecture(config.architecture).network(config.network).to(self.device)
        self.average = {k: v.detach().clone() for k, v in self.network.named_parameters()}
        width = config.network.node_width if config.theories else 0
        self.theories = Theories([config.theories.get(p, "") for p in config.shards], width)
        self.theories.to(self.device)
        self.optimizers = optimizers_of(self.network, config, self.theories.parameters())
        self.step = 0
        self.samples = 0
        self.skipped = 0
        self._teaching: Teaching | None = None
        if config.teacher:
            self._teaching = teaching(config, bf16=self.bf16, device=self.device)
        self._pairing = self._teaching or pairing_of(config)
        self._loss = loss_of(self.network, config, self.bf16)
        if compiled and isinstance(self.network, GraphFieldNetwork):
            for layer in self.network.layers:
                layer.compile(dynamic=True)
        self._restore()
        self.mixture = mixture_on(
            self.device,
            [read_shard(p) for p in config.shards],
            list(config.shards.values()),
            pair_budget=config.pair_budget,
            max_atoms=config.max_atoms,
            seed=config.seed,
            log_mean=config.log_mean,
            log_std=config.log_std,
            floors=[config.floors.get(p, 0.0) for p in config.shards],
            temperatures=[config.temperatures.get(p, config.temperature) for p in config.shards],
        )
        if self.mixture.left_out:
            logger.info("%d molecules do not fit %d atoms", self.mixture.left_out, config.max_atoms)
        self._validation = [_validation_batches(read_shard(p), config) for p in config.validation]

    def run(
        self,
        *,
        max_seconds: float = float("inf"),
        save_every: float = 600.0,
        progress: bool = True,
    ) -> None:
        """Train until `config.steps` or `max_seconds`, saving every `save_every` seconds and at the
        end; Ctrl-C also saves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(self.config.to_json())
        start = saved = time.monotonic()
        recent: list[torch.Tensor] = []
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            unit="step",
            disable=not progress,
            mininterval=2.0,
        )
        try:
            for batch in self.mixture.stream(self.step, self.config.steps):
                recent.append(self._train_step(self.placed(batch)))
                bar.update()
                now = time.monotonic()
                if len(recent) == 50:
                    loss = (
                        torch.stack(recent).mean().item()
                    )  # waits for the device once in 50 steps
                    recent.clear()
                    bar.set_postfix(loss=f"{loss:.4f}", samples=self.samples)
                    self._log(step=self.step, samples=self.samples, loss=loss, seconds=now - start)
                if now - saved > save_every:
                    self.save()
                    saved = now
                if now - start > max_seconds:
                    break
        finally:
            bar.close()
            self.save()

    def placed(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch on the run's device, at the noise levels that a teacher teaches."""
        if self._teaching is not None:
            # As many as the network gets to see; what asks a device for them waits for it.
            atoms = batch.graphs.mask.shape[1]
            if self.config.heavy_atoms:
                heavy = batch.graphs.mask & ~is_hydrogen(batch.graphs.node_codes)
                atoms = int(heavy.sum(1).max())
            batch.sigma = self._teaching.level(batch.sigma, atoms)
        return batch.to(self.device)

    def save(self) -> None:
        """Write the state and, where there is a validation set, its losses to the log."""
        tensors = {f"model.{k}": v for k, v in self.network.named_parameters()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"theories.{k}": v for k, v in self.theories.named_parameters()}
        for k, optimizer in enumerate(self.optimizers):
            tensors |= pack_optimizer(f"optimizer{k}", optimizer)
        meta = {"step": self.step, "samples": self.samples, "skipped": self.skipped}
        save_state(self.folder / "state", tensors, meta)
        for path, losses in zip(self.config.validation, self.validate(), strict=True):
            self._log(
                step=self.step, samples=self.samples, validation=Path(path).stem, losses=losses
            )

    @torch.no_grad()
    def validate(self) -> list[dict[str, float]]:
        """Loss of the averaged weights by noise level (keys: σ in Å), one dict a validation set."""
        own = {k: v.detach().clone() for k, v in self.network.named_parameters()}
        self._load(self.average)
        results = []
        # Layers are compiled for their gradients; compiling them once more, without, takes longer
        # than a validation does.
        with torch.compiler.set_stance("force_eager"):
            for batches in self._validation:
                sums: dict[str, list[torch.Tensor]] = {}
                for sigma, batch in batches:
                    losses = self._batch_loss(batch.to(self.device), None)
                    sums.setdefault(f"{sigma:g}", []).append(losses)
                results.append({k: torch.cat(v).mean().item() for k, v in sums.items()})
        self._load(own)
        return results

    def _train_step(self, batch: TrainingBatch) -> torch.Tensor:
        rate = self.config.rate(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
            optimizer.zero_grad(set_to_none=True)
        loss = self._batch_loss(batch, self.theories(batch.shard)).mean()
        loss.backward()
        learnt = [*self.network.parameters(), *self.theories.parameters()]
        norm = nn.utils.clip_grad_norm_(learnt, self.config.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            self.skipped += 1
        self.step += 1
        self.samples += len(batch.graphs)
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        names, values = zip(*self.network.named_parameters(), strict=True)
        torch._foreach_lerp_(
            [self.average[k] for k in names], [v.detach() for v in values], 1.0 - decay
        )
        return loss.detach()

    def _batch_loss(self, batch: TrainingBatch, offset: torch.Tensor | None) -> torch.Tensor:
        graphs, x, clean = self.paired(batch)
        return self._loss(graphs, x, clean, batch.sigma, offset)

    def paired(
        self, batch: TrainingBatch, pairing: Pairing | None = None
    ) -> tuple[MolBatch, torch.Tensor, torch.Tensor]:
        """What the network gets to see: graphs, noisy positions and those to be predicted, as the
        run pairs them or by `pairing`."""
        pairing, graphs = pairing or self._pairing, batch.graphs
        if not self.config.heavy_atoms:
            return graphs, *pairing(graphs, batch.clean, batch.noise, batch.sigma)
        own = strip(graphs)
        if self._teaching is None or self._teaching.teacher.heavy_atoms:
            clean, noise = own.of(batch.clean), own.of(batch.noise)
            return own.graphs, *pairing(own.graphs, clean, noise, batch.sigma)
        # What a teacher says of heavy atoms is no less true for the hydrogens it has seen.
        x, clean = pairing(graphs, batch.clean, batch.noise, batch.sigma)
        return own.graphs, own.of(x), own.of(clean)

    def _restore(self) -> None:
        stored = load_state(self.folder / "state")
        if stored is None:
            if self.config.start:
                begin_with(self.network, self.theories, self.config)
                self.average = {k: v.detach().clone() for k, v in self.network.named_parameters()}
            return
        tensors, meta = stored
        self._load({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for k in self.average:
            self.average[k].copy_(tensors[f"average.{k}"])
        offsets = {k[9:]: v for k, v in tensors.items() if k.startswith("theories.")}
        self.theories.load_state_dict(offsets)
        for k, optimizer in enumerate(self.optimizers):
            unpack_optimizer(f"optimizer{k}", optimizer, tensors)
        self.step, self.samples, self.skipped = meta["step"], meta["samples"], meta["skipped"]

    @torch.no_grad()
    def _load(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.network.named_parameters():
            parameter.copy_(values[name])

    def _log(self, **entry: object) -> None:
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _validation_batches(
    shard: Shard, config: TrainConfig, molecules: int = 48
) -> list[tuple[float, TrainingBatch]]:
    """The same molecules and noise at every call: the first conformers of a spread of molecules."""
    sigmas = config.levels or VALIDATION_SIGMAS
    chosen = [
        k
        for k in range(0, len(shard), max(1, len(shard) // molecules))
        if shard.n_atoms[k] <= config.max_atoms
    ]
    generator = torch.Generator().manual_seed(1)
    batches = []
    for part in (chosen[k : k + 16] for k in range(0, len(chosen), 16)):
        graphs = MolBatch.collate([shard.graph(k) for k in part])
        clean = torch.zeros(*graphs.mask.shape, 3)
        for row, k in enumerate(part):
            clean[row, : shard.n_atoms[k]] = torch.from_numpy(shard.conformer(k, 0))
        for sigma in sigmas:
            noise = torch.randn(clean.shape, generator=generator)
            levels = torch.full((len(part),), sigma)
            shards = torch.zeros(len(part), dtype=torch.long)
            batches.append((sigma, TrainingBatch(graphs, clean, noise, levels, shards)))
    return batches
