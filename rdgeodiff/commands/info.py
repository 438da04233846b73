"""`rdgeodiff info`: versions, device and models."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rdgeodiff.commands.common import DONE, add_command, device_of, version


def register(commands: Any) -> None:
    """Add the command to the parser."""
    add_command(commands, "info", run_info)


def run_info(args: argparse.Namespace) -> int:
    """Versions, device and models."""
    import torch

    from rdgeodiff.diffusion.samplers import network_calls
    from rdgeodiff.model_file import list_models, weights_folder

    print(f"rdgeodiff {version()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    try:
        import rdkit

        print(f"rdkit {rdkit.__version__}")
    except ImportError:
        print("rdkit is not installed: only train, export and dataset info work")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"device {device_of('auto')} ({name})")
    for model in list_models():
        info = json.loads((weights_folder() / f"{model}.json").read_text())
        guide, sampling = info.get("guide", {}), info.get("sampling", {})
        levels = {sampling.get("steps_small") or sampling.get("steps"), sampling.get("steps")}
        calls = ""
        if all(levels):
            kind, climbs = sampling["sampler"], sampling.get("climbs", 1)
            # What is small climbs once.
            ends = {network_calls(kind, min(levels)), network_calls(kind, max(levels), climbs)}
            calls = f", {' to '.join(map(str, sorted(ends)))} network calls"
        led = ""
        if guide:
            when = "" if guide.get("weight", 1.0) else " on demand"
            led = f", guided by {guide['model']}{when}"
        finish = info.get("finish")
        if finish:
            last = len(finish["levels"])
            led += f" for heavy atoms, {last} more of {finish['model']} for all atoms"
        if "whole" in info:
            calls = ", for the last calls of other models"
        print(f"model {model}: {info.get('parameters', '?')} parameters{calls}{led}")
    if not list_models():
        print(f"no models in {weights_folder()}")
    return DONE
