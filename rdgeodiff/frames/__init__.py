"""Conformers in pandas frames, in the manner of RDKit's PandasTools.

A frame of a library is never clean: cells hold None, NaN, pd.NA, text that is no SMILES, molecules
without atoms. Every row stays where it is, and what went wrong stands in a column of its own.
"""

from rdgeodiff.frames.conformers import AddConformersToFrame, ExplodeConformers
from rdgeodiff.frames.files import FrameFromParquet, FrameToParquet, WriteFrameToSDF

__all__ = [
    "AddConformersToFrame",
    "ExplodeConformers",
    "FrameFromParquet",
    "FrameToParquet",
    "WriteFrameToSDF",
]
