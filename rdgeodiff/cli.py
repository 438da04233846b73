"""The command line: embed, evaluate, train, export, dataset, info.

Commands import what they need when they run, so that `train` and `export` work where RDKit is not
installed. Exit status: 0 done, 1 done with failures (`--strict`), 2 the call itself was wrong, 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

DONE, FAILURES, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's own) and return its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except (OSError, ValueError, ImportError) as error:
        # Every error the library raises on purpose is one of these and says what to do.
        if args.traceback:
            raise
        return _complain(str(error), USAGE)


def run_embed(args: argparse.Namespace) -> int:
    """Conformers for every molecule of a file."""
    from rdgeodiff.embed_file import embed_file

    _set_threads(args.threads)
    tally = embed_file(
        args.input,
        args.output,
        args.n,
        add_hs=args.add_hs,
        failed=args.failed,
        progress=not args.quiet,
        randomSeed=args.seed,
        pruneRmsThresh=args.prune,
        numThreads=args.threads,
        **_model_options(args),
    )
    print(tally.summary())
    if tally.interrupted:
        return INTERRUPTED
    return FAILURES if args.strict and tally.failed else DONE


def run_evaluate(args: argparse.Namespace) -> int:
    """COV and MAT of the model and of ETKDGv3 on reference ensembles."""
    from rdgeodiff.evaluation.generators import make_generator
    from rdgeodiff.evaluation.report import evaluate_archive

    _set_threads(args.threads)
    options = _model_options(args)
    generators = [
        make_generator(m.strip(), seed=args.seed, threads=args.threads, **options)
        for m in args.methods.split(",")
    ]
    reports = []
    for archive in args.archives:
        report = evaluate_archive(
            archive,
            generators,
            molecules=args.molecules,
            deltas=args.delta or (),
            posebusters=args.posebusters,
            progress=not args.quiet,
        )
        reports.append(report)
        print(report.to_markdown())
        if args.out:
            settings = {"seed": args.seed, "threads": args.threads, **options}
            archives = [r.to_dict() for r in reports]
            data = {"rdgeodiff": version(), "settings": settings, "archives": archives}
            Path(args.out).write_text(json.dumps(data, indent=1) + "\n")
        if report.interrupted:
            return INTERRUPTED
    return DONE


def run_train(args: argparse.Namespace) -> int:
    """Train, or continue a run; needs no RDKit."""
    from rdgeodiff.training.config import TrainConfig
    from rdgeodiff.training.loop import Trainer

    try:
        config = TrainConfig.load(args.config)
    except TypeError as error:
        raise ValueError(f"{args.config}: {error}") from error
    trainer = Trainer(
        config, args.out, device=_device(args.device), compiled=args.compile, bf16=args.bf16
    )
    seconds = float("inf") if args.minutes is None else 60.0 * args.minutes
    trainer.run(max_seconds=seconds, progress=not args.quiet)
    print(f"step {trainer.step}, {trainer.samples} samples, {trainer.skipped} steps skipped")
    return DONE


def run_export(args: argparse.Namespace) -> int:
    """Averaged weights of a run as a model; needs no RDKit."""
    from rdgeodiff.checkpoint import save_model
    from rdgeodiff.nn.graph_field import GraphFieldNetwork
    from rdgeodiff.training.config import TrainConfig
    from rdgeodiff.training.state import load_state

    folder = Path(args.run_folder)
    config = TrainConfig.load(folder / "config.json")
    state = load_state(folder / "state")
    if state is None:
        raise ValueError(f"{folder}: holds no training state")
    tensors, meta = state
    network = GraphFieldNetwork(config.network)
    prefix = "average."
    average = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    problems = network.load_state_dict(average, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(f"{folder}: the state does not fit its config.json ({problems})")
    training = json.loads(config.to_json())
    del training["network"]
    # Paths say where data lay on one machine; names say what it was.
    training["shards"] = {Path(p).name: share for p, share in config.shards.items()}
    training["validation"] = [Path(p).name for p in config.validation]
    written = save_model(args.stem, network, {"training": {**training, **meta}})
    print(f"{written} and {written.with_suffix('.safetensors').name}: {meta['samples']} samples")
    return DONE


def run_featurize(args: argparse.Namespace) -> int:
    """An archive of conformers as a training shard."""
    from rdgeodiff.data.conformer_sets import featurize_archive

    count = featurize_archive(args.archive, args.output, progress=not args.quiet)
    print(f"{args.output}: {count} molecules")
    return DONE


def run_dataset_info(args: argparse.Namespace) -> int:
    """Counts of shards."""
    from rdgeodiff.data.shards import read_shard

    for path in args.shards:
        shard = read_shard(path)
        atoms, confs = shard.n_atoms, shard.n_confs.astype(int)
        print(
            f"{path}: {len(shard)} molecules, {confs.sum()} conformers, "
            f"{atoms.min()}-{atoms.max()} atoms (mean {atoms.mean():.1f})"
        )
    return DONE


def run_info(args: argparse.Namespace) -> int:
    """Versions, device and models."""
    import torch

    from rdgeodiff.checkpoint import list_models, weights_folder

    print(f"rdgeodiff {version()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    try:
        import rdkit

        print(f"rdkit {rdkit.__version__}")
    except ImportError:
        print("rdkit is not installed: only train, export and dataset info work")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"device {_device('auto')} ({name})")
    for model in list_models():
        info = json.loads((weights_folder() / f"{model}.json").read_text())
        print(f"model {model}: {info.get('parameters', '?')} parameters")
    if not list_models():
        print(f"no models in {weights_folder()}")
    return DONE


def version() -> str:
    """Version of the installed package, or "unknown" in a bare checkout."""
    try:
        return metadata.version("rdgeodiff")
    except metadata.PackageNotFoundError:
        return "unknown"


def _model_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "steps", "sampler", "device")
    return {name: getattr(args, name) for name in names}


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _set_threads(count: int) -> None:
    if count:
        import torch

        torch.set_num_threads(count)


def _complain(message: str, status: int) -> int:
    print(f"rdgeodiff: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rdgeodiff", description="Conformers from diffusion.")
    parser.add_argument("--version", action="version", version=f"rdgeodiff {version()}")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    embed = _command(commands, "embed", run_embed)
    embed.add_argument("input", help=".smi, .csv (first column) or .sdf, also .gz")
    embed.add_argument("output", help=".sdf or .sdf.gz, one record per conformer")
    embed.add_argument("-n", type=_positive, default=10, help="conformers a molecule (10)")
    embed.add_argument("--seed", type=int, default=-1, help="-1: a new one each time")
    embed.add_argument("--prune", type=float, default=-1.0, metavar="RMSD", help="Å")
    embed.add_argument(
        "--add-hs",
        action=argparse.BooleanOptionalAction,
        help="add hydrogens (default: to SMILES, not to SDF)",
    )
    embed.add_argument("--failed", metavar="FILE", help="table of molecules lacking conformers")
    embed.add_argument("--strict", action="store_true", help="exit 1 if a molecule lacks any")
    _add_model_options(embed)

    evaluate = _command(commands, "evaluate", run_evaluate)
    evaluate.add_argument("archives", nargs="+", metavar="ARCHIVE", help="references, .npz")
    evaluate.add_argument("--methods", default="diffusion,etkdg,etkdg+mmff")
    evaluate.add_argument("--molecules", type=int, default=0, metavar="K", help="only K of them")
    evaluate.add_argument("--delta", type=float, action="append", metavar="Å", help="threshold(s)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--out", metavar="FILE", help="all results as JSON")
    evaluate.add_argument("--posebusters", action="store_true")
    _add_model_options(evaluate)

    train = _command(commands, "train", run_train)
    train.add_argument("--config", required=True, metavar="FILE", help="a TrainConfig as JSON")
    train.add_argument("--out", required=True, metavar="DIR", help="an existing run is continued")
    train.add_argument("--minutes", type=float, help="stop after this time (default: at the end)")
    train.add_argument("--device", default="auto")
    train.add_argument("--no-compile", dest="compile", action="store_false")
    train.add_argument("--no-bf16", dest="bf16", action="store_false")

    export = _command(commands, "export", run_export)
    export.add_argument("run_folder", metavar="RUN", help="folder of a training run")
    export.add_argument("stem", help="writes STEM.safetensors and STEM.json")

    dataset = commands.add_parser("dataset", help="training data")
    actions = dataset.add_subparsers(required=True, metavar="ACTION")
    featurize = _command(actions, "featurize", run_featurize)
    featurize.add_argument("archive")
    featurize.add_argument("output", help="shard, .npz")
    counts = _command(actions, "info", run_dataset_info)
    counts.add_argument("shards", nargs="+", metavar="SHARD")

    _command(commands, "info", run_info)
    return parser


def _command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run)
    return command


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="default", help="name or path")
    command.add_argument("--steps", type=int, default=0, help="0: the model's own")
    command.add_argument("--sampler", default="", help="default: the model's own")
    command.add_argument("--device", default="auto")
    command.add_argument("--threads", type=int, default=1, help="0: torch's and RDKit's own choice")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
