"""Conformers a second on an accelerator: network and sampler alone, drug-size molecules.

    rdgeodiff dataset featurize benchmarks/data/val_drugs.npz graphs.npz
    python benchmarks/device_sampling.py graphs.npz --models small,fast

Needs no RDKit where it runs. What else takes time in `EmbedMoleculeDiffusion`, featurising,
checking and pruning, is the processor's and is in `speed.py`.
"""

from __future__ import annotations

import argparse
import time

import torch

from rdgeodiff.checkpoint import load_model
from rdgeodiff.data.shards import Shard, read_shard
from rdgeodiff.geometry import center
from rdgeodiff.graph import MolBatch
from rdgeodiff.model_file import Model
from rdgeodiff.precision import takes_bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shard", help="featurised molecules")
    parser.add_argument("--models", default="small,fast")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--atoms", default="37-48", help="of the molecules taken")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-guide", dest="guide", action="store_false")
    parser.add_argument("--compile", action="store_true", help="the layers; the first call waits")
    args = parser.parse_args()
    device = torch.device(args.device)
    low, high = (int(v) for v in args.atoms.split("-"))
    graphs = batch_of(read_shard(args.shard), low, high, args.batch).to(device)
    print(f"{args.batch} conformers of {int(graphs.n_atoms.sum()) / args.batch:.1f} atoms")
    for name in args.models.split(","):
        model = load_model(name, device)
        if args.compile:
            for part in [model, *(model.guide[:1] if model.guide else ())]:
                for layer in part.network.layers:  # type: ignore[union-attr]
                    layer.compile(dynamic=True)
        for repeat in range(args.repeats + 1):  # the first one sets up
            seconds, fine = drawn(model, graphs, -1.0 if args.guide else 0.0)
            rate = f"{args.batch / seconds:.0f} conformers/s"
            print(f"{name}, run {repeat}: {seconds:.3f} s, {rate}, finite: {fine}", flush=True)


def batch_of(shard: Shard, low: int, high: int, size: int) -> MolBatch:
    """Molecules of between `low` and `high` atoms, one after the other, as often as needed."""
    chosen = [k for k in range(len(shard)) if low <= shard.n_atoms[k] <= high]
    return MolBatch.collate([shard.graph(chosen[k % len(chosen)]) for k in range(size)])


@torch.no_grad()
def drawn(model: Model, graphs: MolBatch, weight: float) -> tuple[float, bool]:
    """Seconds a batch takes with the model's own sampler, and whether all came out finite."""
    device = graphs.mask.device
    own = model.sampling
    most = int(graphs.n_atoms.max())
    levels = model.process.noise_levels(own, own.sampler, 0, most)
    sample = model.process.sampler(own.sampler)
    denoiser = model.bind(graphs, own.sampler, takes_bf16(device), weight)

    def noise(_: int = 0) -> torch.Tensor:
        return center(torch.randn(*graphs.mask.shape, 3, device=device), graphs.mask)

    wait(device)
    start = time.perf_counter()
    x = sample(denoiser, noise() * levels[0], levels, noise=noise)
    wait(device)
    return time.perf_counter() - start, bool(torch.isfinite(x).all())


def wait(device: torch.device) -> None:
    """For everything asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
