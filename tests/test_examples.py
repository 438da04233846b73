"""The example that trains, on the smallest data that will do; other files test their examples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers import embedded

from rdgeodiff import WriteConformersToSDF

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_training_on_own_data_ends_with_a_model_that_embeds(tmp_path: Path) -> None:
    sdf = tmp_path / "mine.sdf"
    WriteConformersToSDF([embedded(s, 2) for s in ("CCO", "CCN", "COC", "CC=O")], sdf)
    call = [EXAMPLES / "train_own_data.py", "--sdf", sdf, "--minutes", "0.05", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, *map(str, call)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4 molecules" in done.stdout
    assert (tmp_path / "own.safetensors").exists() or list(tmp_path.rglob("*.safetensors"))
