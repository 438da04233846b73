"""Parameters of an embedding call, under the names RDKit's EmbedParameters gives them."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

DEFAULT_ROUNDS = 10
PRECISIONS = ("auto", "float32", "bfloat16")
FORCE_FIELDS = ("MMFF94s", "MMFF94", "UFF")

Places = dict[int, tuple[float, float, float]]

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
    "embedFragmentsSeparately",
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
        enforceChirality: reject samples with a wrong specified tetrahedral centre or axis.
        maxIterations: sampling rounds in which a rejected conformer is mended or drawn again; 0
            means 10.
        timeout: seconds a call may take; 0 means no limit.
        trackFailures: keep the causes of rejected samples for `GetFailureCounts`.
        numThreads: threads for pruning and relaxing, 0 for all. The network uses torch's setting.
        embedFragmentsSeparately: draw each fragment alone and set it beside the others; otherwise
            the network gets the whole mixture, which it was not trained on.
        coordMap: atom index → place (x, y, z in Å, or a Point3D) where that atom has to end; the
            conformers are delivered in the frame of these places. For calls with one molecule.
        strictStereo: refuse molecules with unspecified stereo, instead of sampling both forms.
        relax: force field that relaxes each conformer before pruning ("MMFF94s", "MMFF94" or
            "UFF"); "" leaves them as drawn. `EmbedResult.unrelaxed` counts what it cannot relax.
        oversampling: conformers drawn for each one wanted. Of those accepted the numConfs are
            delivered that stand best for all of them, in that order: the smallest mean RMSD to the
            nearest one, low conformers counting for more (`rdgeodiff.chem.representatives`). 1
            delivers what is drawn.
        energyWidth: with oversampling a conformer counts exp(-E/energyWidth), in kcal/mol. E is
            that of `relax`, or after 30 steps of MMFF94s (or UFF) on a copy. -1: all count alike,
            which is better where they have to meet a protein's pose.
        model: name of a shipped model or path of its files.
        steps: noise levels visited; 0 means the sampler's default.
        sampler: name of a sampler; "" means the model's default.
        guidanceWeight: how strongly a model that has a guide is led away from it; -1 means the
            model's own weight, 0 none: faster, more diverse and less precise.
        stretch: share by which predictions are enlarged while torsions are chosen, 0 to 1. The
            models fold molecules as the gas phase does; with 0.6 `small` makes flexible ones as
            large as in crystals with proteins (`rdgeodiff.diffusion.stretching`); `fast`, with few
            levels of noise, is stretched less.
        climbs: how often a sampler that climbs does so to a maximum of the density, each
            time but the first from a little noise on where it has come, and how often `ddim`
            (`fast`) visits its last level but one: more makes samples of large molecules more
            precise, and takes its time. 0 means the model's own number.
        device: "auto" (a GPU if there is one), or a torch device such as "cpu" or "cuda:1".
        precision: of the network's matrix products: "float32", "bfloat16", or "auto": bfloat16 on
            devices that compute with it (about twice as fast), float32 elsewhere. The two give
            slightly different conformers: name one where several machines have to agree.
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
    embedFragmentsSeparately: bool = True
    coordMap: Places = field(default_factory=dict)
    strictStereo: bool = False
    relax: str = ""
    oversampling: int = 1
    energyWidth: float = 2.0
    model: str = "default"
    steps: int = 0
    sampler: str = ""
    guidanceWeight: float = -1.0
    stretch: float = 0.0
    climbs: int = 0
    device: str = "auto"
    precision: str = "auto"
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

    def SetCoordMap(self, coordMap: Mapping[int, Any]) -> None:
        """Set `coordMap`, as on RDKit's object."""
        self.coordMap = coordMap  # type: ignore[assignment]

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
    def from_rdkit(cls, params: Any, as_json: str = "{}") -> DiffusionEmbedParameters:
        """Take over what an RDKit EmbedParameters object, such as ETKDGv3(), says.

        Honoured: randomSeed, clearConfs, pruneRmsThresh, onlyHeavyAtomsForRMS,
        useSymmetryForPruning, symmetrizeConjugatedTerminalGroupsForPruning, enforceChirality,
        maxIterations (as sampling rounds), timeout, trackFailures (the counts then stand in
        `EmbedResult.rejections`), numThreads, embedFragmentsSeparately and SetCoordMap.

        Ignored, as they steer distance geometry or its force field: ETversion, SetBoundsMat,
        SetCPCI, basinThresh, boundsMatForceScaling, boxSizeMult, embedForceField,
        enableSequentialRandomSeeds, forceTransAmides, ignoreSmoothingFailures,
        initialEmbeddingMode, numZeroFail, onlyInitialEmbedding, optimizerForceTol, randNegEig,
        useBasicKnowledge, useExpTorsionAnglePrefs, useLegacyImplementation, useMacrocycle14config,
        useMacrocycleTorsions, useRandomCoords, useSmallRingTorsions, verbose.

        Args:
            params: the object.
            as_json: RDKit's JSON text of it, the only place its coordinate map can be read from.
        """
        places = json.loads(as_json).get("coordMap", {})
        # An RDKit release without one of the newer attributes leaves our default in place.
        shared = {k: getattr(params, k) for k in _SHARED if hasattr(params, k)}
        return cls().updated(**shared, coordMap=places)


_KINDS: dict[str, str] = {f.name: str(f.type) for f in fields(DiffusionEmbedParameters)}
_LOWEST = {
    "randomSeed": -1,
    "maxIterations": 0,
    "timeout": 0,
    "oversampling": 1,
    "steps": 0,
    "batchPairs": 0,
    "guidanceWeight": -1,
    "stretch": 0,
    "climbs": 0,
}
_HIGHEST = {"stretch": 1}


def _checked(name: str, kind: str, value: Any) -> Any:
    """`value` as the plain Python type `kind`."""
    if name == "coordMap":
        return _places(value)
    if name == "relax":
        return _force_field(value)
    if name == "precision" and value not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS)}, not {value!r}")
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
    if name in _HIGHEST and not plain <= _HIGHEST[name]:
        raise ValueError(f"{name} must be at most {_HIGHEST[name]}, not {value!r}")
    if name == "energyWidth" and plain != -1 and not plain > 0:
        raise ValueError(f"energyWidth must be above 0, or -1, not {value!r}")
    if plain != plain:
        raise ValueError(f"{name} is not a number")
    return plain


def _force_field(value: Any) -> str:
    """Name of a force field, or ""; None means none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"relax must be of type str, not {value!r}")
    if value and value not in FORCE_FIELDS:
        raise ValueError(f"relax must be {', '.join(FORCE_FIELDS)} or '', not {value!r}")
    return value


def _places(value: Any) -> Places:
    """A coordinate map with plain numbers; JSON's text keys and RDKit's points are understood."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"coordMap must map atom indices to positions, not {value!r}")
    places = {}
    for key, point in value.items():
        try:
            index = int(key) if isinstance(key, str) else operator.index(key)
            x, y, z = (float(v) for v in point)
        except (TypeError, ValueError):
            raise TypeError(
                f"coordMap needs whole atom indices and three numbers each, not {key!r}: {point!r}"
            ) from None
        if not all(map(math.isfinite, (x, y, z))):
            raise ValueError(f"coordMap has a position that is not finite for atom {index}")
        places[index] = (x, y, z)
    return places
