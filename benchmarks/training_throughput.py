"""Training samples per second of a 96 wide, 5 layer network on QM9-size molecules.

    python benchmarks/training_throughput.py [--threads 2] [--seconds 60] [--no-compile] [--no-bf16]

The molecules are those of benchmarks/data/val_qm9.npz; what is trained is thrown away. Compilation
happens in the first steps, which are not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from rdgeodiff.data.conformer_sets import featurize_archive
from rdgeodiff.nn.graph_field import GraphFieldConfig
from rdgeodiff.training.config import TrainConfig
from rdgeodiff.training.loop import Trainer

ARCHIVE = Path(__file__).parent / "data" / "val_qm9.npz"
PART = 10  # steps between two readings of the clock


def main() -> None:
    """Train for a while and print the rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, default=ARCHIVE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="timed training")
    parser.add_argument("--warmup", type=int, default=24, help="steps before the clock starts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-bf16", dest="bf16", action="store_const", const=False)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shard.npz"
        featurize_archive(args.archive, shard, progress=False)
        network = GraphFieldConfig(width=args.width, layers=args.layers)
        config = TrainConfig(shards={str(shard): 1.0}, network=network)
        trainer = Trainer(
            config, Path(folder) / "run", device=args.device, compiled=args.compile, bf16=args.bf16
        )
        rates = _rates(trainer, args.warmup, args.seconds)
    result = {
        "samples_per_second": round(statistics.median(rates), 1),
        "slowest_and_fastest": [round(min(rates), 1), round(max(rates), 1)],
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "threads": args.threads,
        "device": args.device,
        "compiled": args.compile,
        "bf16": trainer.bf16,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))


def _rates(trainer: Trainer, warmup: int, seconds: float) -> list[float]:
    """Samples per second of every PART steps after `warmup`."""
    rates: list[float] = []
    batches = trainer.mixture.stream(0, 10**9)
    start = mark = time.perf_counter()
    samples = 0
    with tqdm(unit="step") as bar:
        for step, batch in enumerate(batches):
            loss = trainer._train_step(batch.to(trainer.device))
            bar.update()
            if step + 1 < warmup:
                continue
            loss.item()  # waits for a GPU
            now = time.perf_counter()
            if step + 1 == warmup:
                start = mark = now
            elif (step + 1 - warmup) % PART == 0:
                rates.append((trainer.samples - samples) / (now - mark))
                mark = now
            else:
                continue
            samples = trainer.samples
            if now - start > seconds and rates:
                return rates
    return rates


if __name__ == "__main__":
    main()
