"""Train on a lent accelerator: as many samples as a given time allows.

    python benchmarks/train_device.py --config CONFIG.json --out DIR --seconds 500

A run as of `rdgeodiff train`, but for a machine one has for minutes: all molecules lie on the
device, steps are recorded once and replayed (`rdgeodiff.training.recorded`), nothing waits for the
device between two steps, and warm-up and decay of the learning rate follow the clock, so that the
rate is zero when the time is over. Writes the averaged weights as a training state to DIR, for
`rdgeodiff export`, those after each third to DIR/third1 and DIR/third2, and the curve to
DIR/log.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.functional import pad

from rdgeodiff.checkpoint import load_model
from rdgeodiff.diffusion.objectives import Pairing, plain_pair
from rdgeodiff.training.batches import prefetched
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.growth import grow
from rdgeodiff.training.loop import Trainer
from rdgeodiff.training.recorded import NoisyBatch, RecordedSteps
from rdgeodiff.training.state import save_state

CHECK = 50  # steps between two looks at the loss
AHEAD = 6  # batches prepared before they are needed
BEGAN = time.monotonic()


class Clock:
    """Learning rate by the share of the time that is over."""

    def __init__(self, seconds: float, warm: float, steady: float) -> None:
        self.seconds, self.warm, self.steady = max(seconds, 1e-3), warm, steady
        self.start = time.monotonic()

    def share(self) -> float:
        return (time.monotonic() - self.start) / self.seconds

    def rate(self) -> float:
        share = self.share()
        falling = (1.0 - share) / (1.0 - self.steady) if share > self.steady else 1.0
        rising = share / self.warm if share < self.warm else 1.0
        return max(0.0, min(rising, falling, 1.0))


class Feed:
    """Batches with their noise, prepared in threads and, on CUDA, in a stream of their own."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._cuda = trainer.device.type == "cuda"
        self._stream = torch.cuda.Stream() if self._cuda else None

    def noisy(self, step: int, pairing: Pairing | None = None) -> NoisyBatch:
        """The batch of a step, paired as the run says or by `pairing`."""
        there = torch.cuda.stream(self._stream) if self._cuda else contextlib.nullcontext()
        trainer = self._trainer
        with there, torch.no_grad():
            batch = trainer.placed(trainer.mixture.batch(step))
            noisy = NoisyBatch(*trainer.paired(batch, pairing), batch.sigma, batch.shard)
            if self._stream is not None:
                self._stream.synchronize()
        return noisy

    def stream(self) -> Iterator[NoisyBatch]:
        """Those of all steps, in order."""
        for noisy in prefetched(self.noisy, itertools.count(), ahead=AHEAD):
            if self._cuda:  # made in another stream than it is read in
                for tensor in noisy.tensors():
                    tensor.record_stream(torch.cuda.current_stream())
            yield noisy


class Run:
    """A run in progress: its log and what it saves."""

    def __init__(self, trainer: Trainer, out: Path) -> None:
        self.trainer, self.out = trainer, out
        self.step = self.samples = 0
        self._log = (out / "log.jsonl").open("a")

    def note(self, **entry: object) -> None:
        """A line of the log."""
        entry["at"] = round(time.monotonic() - BEGAN, 1)
        print(json.dumps(entry), flush=True)
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()

    def validate(self) -> None:
        """Losses on the validation sets."""
        trainer = self.trainer
        for path, losses in zip(trainer.config.validation, trainer.validate(), strict=True):
            rounded = {k: round(v, 4) for k, v in losses.items()}
            self.note(step=self.step, validation=Path(path).stem, **rounded)

    def save(self, name: str = "") -> None:
        """The averaged weights, as a run of its own in the folder `name` of this one."""
        trainer, folder = self.trainer, self.out / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(trainer.config.to_json())
        tensors = {f"average.{k}": v for k, v in trainer.average.items()}
        tensors |= {f"theories.{k}": v for k, v in trainer.theories.named_parameters()}
        meta = {"step": self.step, "samples": self.samples, "skipped": 0}
        save_state(folder / "state", tensors, meta)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--grow", help="a smaller model to begin with; the config's start if alike")
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--seconds", type=float, required=True, help="until the rate is zero, preparation included"
    )
    parser.add_argument("--steady", type=float, default=0.3, help="share before the rate falls")
    parser.add_argument("--warm", type=float, default=0.03)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-record", dest="record", action="store_false")
    parser.add_argument("--prepare", type=float, default=200.0, help="s, then no more records")
    parser.add_argument("--check", type=int, default=CHECK)
    args = parser.parse_args()
    config = TrainConfig.load(args.config)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.compile:
        few_versions()
    trainer = Trainer(config, out / "none", device=args.device, compiled=args.compile, bf16=True)
    if args.grow:
        begin_larger(trainer, args.grow)
    run, feed = Run(trainer, out), Feed(trainer)
    run.note(ready=True, buckets=len(trainer.mixture.buckets))
    run.validate()
    steps = steps_of(trainer)
    if args.record:
        prepare(run, feed, steps, args.prepare)
    clock = Clock(args.seconds - (time.monotonic() - BEGAN), args.warm, args.steady)
    train(run, feed, steps, clock, args.check)
    run.save()
    run.note(step=run.step, samples=run.samples, saved=True)
    run.validate()


def few_versions() -> None:
    """Leave out what makes the compiler tell sizes apart: it takes most of a minute a version."""
    from torch._inductor import config as inductor

    inductor.shape_padding = False
    if hasattr(inductor.triton, "mix_order_reduction"):
        inductor.triton.mix_order_reduction = False


def begin_larger(trainer: Trainer, smaller: str) -> None:
    """Begin with the function of a smaller model, its levels of theory included."""
    model = load_model(smaller)
    grow(trainer.network.cpu(), dict(model.network.named_parameters()))
    trainer.network.to(trainer.device)
    width = trainer.config.network.node_width
    known = {k: pad(v, (0, width - len(v))) for k, v in model.process.theories.items()}
    trainer.theories.begin_with(known)
    for name, value in trainer.network.named_parameters():
        trainer.average[name].copy_(value)


def steps_of(trainer: Trainer) -> RecordedSteps:
    """The trainer's steps, to be recorded."""

    def loss(p: NoisyBatch) -> torch.Tensor:
        offset = trainer.theories(p.shard)
        return trainer._loss(p.graphs, p.noisy, p.clean, p.sigma, offset).mean()

    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if "capturable" in group and trainer.device.type == "cuda":
                group["capturable"] = True
    return RecordedSteps(
        loss,
        [*trainer.network.parameters(), *trainer.theories.parameters()],
        trainer.optimizers,
        list(trainer.average.values()),
        list(trainer.network.parameters()),
        clip=trainer.config.clip,
        ema=trainer.config.ema,
    )


def prepare(run: Run, feed: Feed, steps: RecordedSteps, limit: float) -> None:
    """Record a step of each size, those that come most often first."""
    buckets = sorted(run.trainer.mixture.buckets, key=lambda b: -b.mass / b.size)
    found: dict[int, NoisyBatch] = {}
    for step in range(30 * len(buckets)):
        batch = feed.noisy(step, plain_pair)  # only its shape matters: no teacher is asked
        found.setdefault(batch.noisy.shape[1], batch)
        if len(found) == len(buckets):
            break
    for bucket in buckets:
        if bucket.pad in found and time.monotonic() - BEGAN < limit:
            steps.record(found[bucket.pad])
            run.note(recorded=list(found[bucket.pad].noisy.shape))


def train(run: Run, feed: Feed, steps: RecordedSteps, clock: Clock, check: int) -> None:
    """Until the clock has run out."""
    everything = [*steps.learnt, *run.trainer.average.values()]
    kept = [v.detach().clone() for v in everything]
    losses: list[torch.Tensor] = []
    thirds = 0
    for batch in feed.stream():
        losses.append(steps(batch, clock.rate()))
        run.step += 1
        run.samples += len(batch.sigma)
        if len(losses) < check:
            continue
        mean = torch.stack(losses).mean().item()
        losses.clear()
        with torch.no_grad():
            if mean == mean:
                torch._foreach_copy_(kept, everything)
            else:
                torch._foreach_copy_(everything, kept)
                steps.forget()
        if run.step % (10 * check) == 0 or mean != mean:
            rate = round(clock.rate(), 3)
            run.note(step=run.step, samples=run.samples, loss=round(mean, 4), rate=rate)
        if clock.share() > 1.0:
            return
        if clock.share() > (thirds + 1) / 3:
            thirds += 1  # the last is not always the best
            run.save(f"third{thirds}")
            run.validate()


if __name__ == "__main__":
    main()
