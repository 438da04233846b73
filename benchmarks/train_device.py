"""Train on a lent accelerator: as many samples as a given time allows.

    python benchmarks/train_device.py --config CONFIG.json --out DIR --seconds 500

A run as of `rdgeodiff train`, but for a machine one has for minutes: all molecules lie on the
device, nothing waits for the device between two steps, and warm-up and decay of the learning rate
follow the clock, so that the rate is zero when the time is over. Writes the averaged weights as a
training state to DIR, for `rdgeodiff export`, and the curve to DIR/log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn.functional import pad

from rdgeodiff.checkpoint import load_model
from rdgeodiff.training.batches import TrainingBatch
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.growth import grow
from rdgeodiff.training.loop import Trainer
from rdgeodiff.training.state import save_state

CHECK = 50  # steps between two looks at the loss


class Clock:
    """Learning rate by the share of the time that is over."""

    def __init__(self, seconds: float, warm: float, steady: float) -> None:
        self.seconds, self.warm, self.steady = seconds, warm, steady
        self.start = time.monotonic()

    def share(self) -> float:
        return (time.monotonic() - self.start) / self.seconds

    def rate(self) -> float:
        share = self.share()
        falling = (1.0 - share) / (1.0 - self.steady) if share > self.steady else 1.0
        rising = share / self.warm if share < self.warm else 1.0
        return max(0.0, min(rising, falling, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--grow", help="a smaller model to begin with; the config's start if alike")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--steady", type=float, default=0.3, help="share before the rate falls")
    parser.add_argument("--warm", type=float, default=0.03)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--check", type=int, default=CHECK)
    args = parser.parse_args()
    began = time.monotonic()
    config = TrainConfig.load(args.config)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(config.to_json())
    trainer = Trainer(config, out / "none", device=args.device, compiled=args.compile, bf16=True)
    if args.grow:
        begin_larger(trainer, args.grow)
    mixture, optimizers = trainer.mixture, trainer.optimizers
    learnt = [*trainer.network.parameters(), *trainer.theories.parameters()]
    averaged = list(trainer.average.values())
    live = [v.detach() for v in trainer.network.parameters()]
    log = (out / "log.jsonl").open("a")

    def note(**entry: object) -> None:
        print(json.dumps(entry), flush=True)
        log.write(json.dumps(entry) + "\n")
        log.flush()

    def validate(step: int) -> None:
        for path, losses in zip(config.validation, trainer.validate(), strict=True):
            rounded = {k: round(v, 4) for k, v in losses.items()}
            note(step=step, validation=Path(path).stem, **rounded)

    def save(step: int, samples: int) -> None:
        tensors = {f"average.{k}": v for k, v in trainer.average.items()}
        tensors |= {f"theories.{k}": v for k, v in trainer.theories.named_parameters()}
        save_state(out / "state", tensors, {"step": step, "samples": samples, "skipped": 0})

    note(ready=round(time.monotonic() - began, 1), buckets=len(mixture.buckets))
    validate(0)
    for k, bucket in enumerate(mixture.buckets):  # compile, before the clock runs
        if k in (len(mixture.buckets) // 3, len(mixture.buckets) // 2, len(mixture.buckets) - 2):
            for step in range(10_000):
                batch = mixture.batch(step)
                if batch.clean.shape[1] == bucket.pad:
                    break
            loss_of(trainer, batch.to(trainer.device)).backward()
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds = round(time.monotonic() - began, 1)
            note(warmed=bucket.pad, molecules=len(batch.graphs), at=seconds)
    clock = Clock(args.seconds, args.warm, args.steady)
    losses, samples, thirds = [], 0, 0
    kept = [v.clone() for v in (*live, *averaged)]
    for step, batch in enumerate(mixture.stream(0, config.steps, ahead=6)):
        rate = clock.rate()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(trainer, batch.to(trainer.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, config.clip, foreach=True)
        for optimizer in optimizers:
            optimizer.step()
        torch._foreach_lerp_(averaged, live, 1.0 - min(config.ema, (1 + step) / (10 + step)))
        losses.append(loss.detach())
        samples += len(batch.graphs)
        if len(losses) == args.check:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            if mean == mean:
                torch._foreach_copy_(kept, [*live, *averaged])
            else:
                torch._foreach_copy_([*live, *averaged], kept)
                for optimizer in optimizers:
                    optimizer.state.clear()
            if step % (4 * args.check) == args.check - 1 or mean != mean:
                note(
                    step=step + 1,
                    samples=samples,
                    loss=round(mean, 4),
                    rate=round(rate, 3),
                    at=round(time.monotonic() - clock.start, 1),
                )
            if clock.share() > 1.0:
                break
            if clock.share() > (thirds + 1) / 3:
                thirds += 1
                save(step + 1, samples)
                validate(step + 1)
    save(step + 1, samples)
    note(step=step + 1, samples=samples, saved=round(time.monotonic() - began, 1))
    validate(step + 1)


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


def loss_of(trainer: Trainer, batch: TrainingBatch) -> torch.Tensor:
    """Mean loss of a batch."""
    return trainer._batch_loss(batch, trainer.theories(batch.shard)).mean()


if __name__ == "__main__":
    main()
