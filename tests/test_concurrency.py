"""Two callers at once, and an interrupt in the middle, with the shipped model."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from helpers import mol_from, positions_of

from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion

SMILES = ("C[C@H](N)C(=O)O", "CCOC(=O)c1ccccc1", "C/C=C/CO", "OC1CCNCC1")

CHILD = """
import sys
from rdkit import Chem
import numpy as np
from rdgeodiff import EmbedMoleculesDiffusion, embed

mols = [Chem.AddHs(Chem.MolFromSmiles("CC(C)Cc1ccc(cc1)C(C)C(=O)O")) for _ in range(40)]
draw = embed.Task.take

def announce(self, *sample):
    draw(self, *sample)
    if self.row == 0:
        print("started", flush=True)

embed.Task.take = announce
try:
    EmbedMoleculesDiffusion(mols, 2, randomSeed=1, batchPairs=3000, maxIterations=3)
except KeyboardInterrupt:
    done = [m.GetNumConformers() for m in mols]
    good = all(np.isfinite(c.GetPositions()).all() for m in mols for c in m.GetConformers())
    print("interrupted", sum(n > 0 for n in done), max(done), good, flush=True)
"""


def test_two_threads_get_what_each_would_alone():
    alone = [mol_from(s) for s in SMILES]
    for mol in alone:
        EmbedMoleculeDiffusion(mol, 3, randomSeed=5, steps=8)
    together = [mol_from(s) for s in SMILES]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(EmbedMoleculeDiffusion, mol, 3, randomSeed=5, steps=8) for mol in together
        ]
        assert all(job.result() == [0, 1, 2] for job in jobs)
    for a, b in zip(alone, together, strict=True):
        assert np.abs(positions_of(a) - positions_of(b)).max() < 1e-3


def test_threads_for_relaxing_and_pruning_change_nothing():
    results = []
    for threads in (1, 0):
        mols = [mol_from(s) for s in SMILES]
        EmbedMoleculesDiffusion(
            mols, 4, randomSeed=5, steps=8, numThreads=threads, relax="MMFF94s", pruneRmsThresh=0.2
        )
        results.append([positions_of(m) for m in mols])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-6


def test_an_interrupt_leaves_finished_molecules_whole():
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdout=subprocess.PIPE,
        text=True,
        # A parent that ignores the signal (a job in the background) would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    child.send_signal(signal.SIGINT)
    lines = [line for line in child.stdout.read().splitlines() if line != "started"]
    child.wait(60)
    word, finished, most, good = lines[-1].split()
    assert word == "interrupted" and good == "True"
    assert 1 <= int(finished) < 40 and int(most) <= 2
