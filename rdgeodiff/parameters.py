"""Parameters of an embedding call, under the names RDKit's EmbedParameters gives them."""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass, fields
from typing import Any

DEFAULT_ROUNDS = 10

# What an RDKit EmbedParameters object and ours have in common.
_SHARED = (
    "randomSeed",
    "clearConfs",
    "pruneRmsThresh",
    "onlyHeavyAtomsForRMS",
    "useSymmetryForPruning",
    "symmetrizeConjugatedTerminalGroupsForPruning",
    "enforceChirality",
    "maxIterations",
    "timeout",
    "trackFailures",
    "numThreads",
)


@dataclass
class DiffusionEmbedParameters:
    """How `EmbedMoleculeDiffusion` works. Names and meanings are RDKit's wherever RDKit has one.

    Attributes:
        randomSeed: same seed, same conformers; -1 draws a new seed for each call.
        clearConfs: drop the conformers a molecule already has, before anything is tried.
        pruneRmsThresh: drop conformers closer than this (Å) to one already kept; -1 keeps all.
        onlyHeavyAtomsForRMS: pruning looks at heavy atoms only.
        useSymmetryForPruning: pruning takes the smallest RMSD over symmetric atom orders.
        symmetrizeConjugatedTerminalGroupsForPruning: the two oxygens of a carboxylate are alike.
        enforceChirality: reject samples with a wrong specified tetrahedral centre.
        maxIterations: sampling rounds in which a rejected conformer is drawn again; 0 means 10.
        timeout: seconds a call may take; 0 means no limit.
        trackFailures: keep the causes of rejected samples for `GetFailureCounts`.
        numThreads: threads used for pruning, 0 for all. The network uses torch's own setting.
        model: name of a shipped model or path of its files.
        steps: noise levels visited; 0 means the sampler's default.
        sampler: name of a sampler; "" means the model's default.
        device: "auto" (a GPU if there is one), or a torch device such as "cpu" or "cuda:1".
        batchPairs: padded atom pairs in one batch; 0 means chosen for the device.
        progress: show a progress bar that counts molecules.

    Raises:
        AttributeError: an attribute with another name is set.
        TypeError, ValueError: a value of the wrong kind, or out of range.
    """

    randomSeed: int = -1
    clearConfs: bool = True
    pruneRmsThresh: float = -1.0
    onlyHeavyAtomsForRMS: bool = True
    useSymmetryForPruning: bool = True
    symmetrizeConjugatedTerminalGroupsForPruning: bool = True
    enforceChirality: bool = True
    maxIterations: int = 0
    timeout: float = 0.0
    trackFailures: bool = False
    numThreads: int = 1
    model: str = "default"
    steps: int = 0
    sampler: str = ""
    device: str = "auto"
    batchPairs: int = 0
    progress: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        kind = _KINDS.get(name)
        if kind is None:
            raise AttributeError(f"Cannot set unknown attribute '{name}'")
        object.__setattr__(self, name, _checked(name, kind, value))

    @property
    def rounds(self) -> int:
        """Sampling rounds a conformer gets."""
        return self.maxIterations or DEFAULT_ROUNDS

    def updated(self, **overrides: Any) -> DiffusionEmbedParameters:
        """A copy with some values replaced; raises as setting an attribute does."""
        copy = DiffusionEmbedParameters(**{f.name: getattr(self, f.name) for f in fields(self)})
        for name, value in overrides.items():
            setattr(copy, name, value)
        return copy

    def GetFailureCounts(self) -> dict[str, int]:
        """Cause → samples rejected in the last call made with `trackFailures`.

        RDKit returns a tuple that only its own enumeration explains; ours names the causes.
        """
        return dict(self.__dict__.get("_failure_counts", {}))

    def record_failures(self, counts: dict[str, int]) -> None:
        """Store what `GetFailureCounts` returns."""
        self.__dict__["_failure_counts"] = dict(counts)

    def toJSON(self) -> str:
        """All values as a JSON object."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def fromJSON(cls, text: str) -> DiffusionEmbedParameters:
        """Parameters from `toJSON`'s output; what is left out keeps its default.

        Raises:
            ValueError: not a JSON object.
            AttributeError: unknown name.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("parameters must be a JSON object of names and values")
        return cls().updated(**values)

    @classmethod
    def from_rdkit(cls, params: Any) -> DiffusionEmbedParameters:
        """Take over what an RDKit EmbedParameters object, such as ETKDGv3(), says.

        Honoured: randomSeed, clearConfs, pruneRmsThresh, onlyHeavyAtomsForRMS,
        useSymmetryForPruning, symmetrizeConjugatedTerminalGroupsForPruning, enforceChirality,
        maxIterations (as sampling rounds), timeout, trackFailures (the counts then stand in
        `EmbedResult.rejections`) and numThreads.

        Ignored, as they steer distance geometry or its force field: ETversion, SetBoundsMat,
        SetCPCI, SetCoordMap, basinThresh, boundsMatForceScaling, boxSizeMult, embedForceField,
        embedFragmentsSeparately (always so), enableSequentialRandomSeeds, forceTransAmides,
        ignoreSmoothingFailures, initialEmbeddingMode, numZeroFail, onlyInitialEmbedding,
        optimizerForceTol, randNegEig, useBasicKnowledge, useExpTorsionAnglePrefs,
        useLegacyImplementation, useMacrocycle14config, useMacrocycleTorsions, useRandomCoords,
        useSmallRingTorsions, verbose. A coordinate map cannot be read back from RDKit's object, so
        it is ignored without being noticed.
        """
        # An RDKit release without one of the newer attributes leaves our default in place.
        return cls().updated(**{k: getattr(params, k) for k in _SHARED if hasattr(params, k)})


_KINDS: dict[str, str] = {f.name: str(f.type) for f in fields(DiffusionEmbedParameters)}
_LOWEST = {"randomSeed": -1, "maxIterations": 0, "timeout": 0, "steps": 0, "batchPairs": 0}


def _checked(name: str, kind: str, value: Any) -> Any:
    """`value` as the plain Python type `kind`."""
    try:
        if kind == "str":
            # A path is as good as a name; anything else is more likely a mix-up of arguments.
            plain: Any = value if isinstance(value, str) else value.__fspath__()
        elif kind == "bool":
            plain = operator.index(value)
            if plain not in (0, 1):
                raise TypeError
            plain = bool(plain)
        elif kind == "int":
            if isinstance(value, bool):
                raise TypeError
            plain = operator.index(value)
        else:
            if isinstance(value, str | bool):
                raise TypeError
            plain = float(value)
    except (TypeError, AttributeError, ValueError):
        raise TypeError(f"{name} must be of type {kind}, not {value!r}") from None
    if name in _LOWEST and not plain >= _LOWEST[name]:
        raise ValueError(f"{name} must be at least {_LOWEST[name]}, not {value!r}")
    if plain != plain:
        raise ValueError(f"{name} is not a number")
    return plain
