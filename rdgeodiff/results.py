"""What came of a request for conformers, and why something did not come."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FailureCause(StrEnum):
    """Why a conformer is missing, or a sample was rejected. Members equal their names as text."""

    # The molecule could not be attempted.
    INVALID_INPUT = "INVALID_INPUT"
    NO_ATOMS = "NO_ATOMS"
    UNSANITIZED = "UNSANITIZED"
    QUERY_ATOMS = "QUERY_ATOMS"
    UNSUPPORTED_ATOM = "UNSUPPORTED_ATOM"
    TOO_LARGE = "TOO_LARGE"
    UNASSIGNED_STEREO = "UNASSIGNED_STEREO"
    # A sample was not acceptable.
    NONFINITE = "NONFINITE"
    STEREO = "STEREO"
    DOUBLE_BOND_STEREO = "DOUBLE_BOND_STEREO"
    BOND_LENGTH = "BOND_LENGTH"
    BOND_ANGLE = "BOND_ANGLE"
    FLATNESS = "FLATNESS"
    CLASH = "CLASH"
    COORD_MAP = "COORD_MAP"
    # The machine or the clock said no.
    EXCEEDED_TIMEOUT = "EXCEEDED_TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    # The conformer was fine and too close to one already kept.
    PRUNED = "PRUNED"
    # The conformer was delivered, but not relaxed, or not to the end.
    NO_PARAMETERS = "NO_PARAMETERS"
    NOT_CONVERGED = "NOT_CONVERGED"


class UnusableMoleculeError(ValueError):
    """A molecule that cannot be attempted; `cause` is the matching `FailureCause`."""

    def __init__(self, message: str, cause: FailureCause) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass
class EmbedResult:
    """What became of one molecule.

    `len(conf_ids) + sum(failures.values()) == requested`, so that nothing is missing without a
    cause.

    Attributes:
        conf_ids: ids of the conformers written, in order of conformer index.
        requested: conformers asked for.
        failures: cause → conformers not delivered, each under its last cause.
        error: a sentence where the molecule could not be attempted at all, else None.
        rejections: cause → samples rejected, those that were replaced included.
        raw_samples: first attempts drawn from the network (one per fragment and conformer).
        raw_stereo_ok: those of them that had all specified stereo right as they came.
        unrelaxed: cause → conformers delivered as drawn although relaxation was asked for: the
            force field has NO_PARAMETERS, the clock said no, or what relaxing made of them was not
            acceptable. Under NOT_CONVERGED they are relaxed as far as it went.
        rounds: sampling rounds the molecule took part in.
        seconds: wall-clock time until its last conformer was settled; a stream is shared, so the
            times of molecules embedded together overlap.
    """

    conf_ids: list[int] = field(default_factory=list)
    requested: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    rejections: dict[str, int] = field(default_factory=dict)
    raw_samples: int = 0
    raw_stereo_ok: int = 0
    unrelaxed: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Every conformer asked for is there (pruned ones count as there)."""
        missing = sum(n for cause, n in self.failures.items() if cause != FailureCause.PRUNED)
        return self.error is None and missing == 0
