"""Rules by which ensembles are compared: our own, and those of the two papers everybody cites.

They differ in thresholds, in which molecules count, and in what becomes of a molecule for which a
method makes too little. All make twice as many conformers as there are references and compare heavy
atoms as `GetBestRMS` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdkit import Chem

DRUG_ATOMS = 30  # a set whose largest molecule has this many atoms counts as drug-size
# Thresholds of the curves, in Å: 0.05 to 3.0 in steps of 0.05 (GeoDiff's own grid).
SWEEP = tuple(round(0.05 * k, 2) for k in range(1, 61))
_CHAIN = Chem.MolFromSmarts("*~*~*~*")


@dataclass(frozen=True)
class Protocol:
    """One set of rules.

    Attributes:
        name: as on the command line; "own" for ours.
        qm9_deltas, drug_deltas: Å.
        strict: a distance of exactly δ is not covered.
        connected: leave out molecules of several fragments.
        chains: leave out molecules without a chain of four atoms.
        drop_incomplete: leave a molecule out of a method's means where the method delivered less
            than was asked for. Otherwise what it delivered is scored, and nothing counts as 0 %.
        source: where the rules come from.
    """

    name: str
    qm9_deltas: tuple[float, ...]
    drug_deltas: tuple[float, ...]
    strict: bool = False
    connected: bool = False
    chains: bool = False
    drop_incomplete: bool = False
    source: str = ""

    def deltas(self, mols: Sequence[Chem.Mol]) -> tuple[float, ...]:
        """Thresholds in Å for a set of molecules, by the size of its largest."""
        largest = max((m.GetNumAtoms() for m in mols), default=0)
        return self.qm9_deltas if largest < DRUG_ATOMS else self.drug_deltas

    def objection(self, mol: Chem.Mol) -> str | None:
        """Why a molecule is not part of the test, or None."""
        if self.connected and len(Chem.GetMolFrags(mol)) > 1:
            return "several fragments"
        if self.chains and not mol.HasSubstructMatch(_CHAIN):
            return "no chain of four atoms"
        return None


OWN = Protocol("own", (0.5,), (0.75, 1.25))
PROTOCOLS = {
    "geodiff": Protocol(
        "geodiff",
        (0.5,),
        (1.25,),
        connected=True,
        drop_incomplete=True,
        source="GeoDiff, arXiv 2203.02923, and its evaluation code",
    ),
    "torsional": Protocol(
        "torsional",
        (0.5,),
        (0.75,),
        strict=True,
        connected=True,
        chains=True,
        source="Torsional Diffusion, arXiv 2206.01729, and its evaluation code",
    ),
}


def protocol_of(name: str) -> Protocol:
    """The protocol called `name`, "" for our own; raises ValueError for another name."""
    if not name or name == OWN.name:
        return OWN
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
