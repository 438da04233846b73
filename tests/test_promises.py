"""The promises to the user, on molecules nobody chose and samples that may be anything.

The pipeline is a script: each sample is an ETKDG conformer, or its mirror image, one of another
stereoisomer, a broken one, NaN, or no sample at all.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from helpers import Script, accounted, is_bonded_sensibly, specified_stereo, written_stereo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import rdgeodiff.opening
from rdgeodiff import EmbedMoleculeDiffusion, EmbedMoleculesDiffusion, FailureCause

MANY = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# A small grammar: pieces that fit between two bonds, closed by two ends.
LINKS = """
C CC O N S C(=O) C(=O)N C(=O)O C#C [C@@H](C) [C@H](F) [C@](C)(N) [C@@](Cl)(F) C(O) c1ccc(cc1)
c1cnc(nc1) N1CCC(CC1) [C@H]1CC[C@@H](CC1) [C@@H]1C[C@H](C1) S(=O)(=O) [C@@H]1CO[C@H](C1) [Si](C)(C)
C(F)(F) [N+](C)(C) [C@H]([NH3+]) [S@](=O) [P@](=O)(O) C=C /C=C/ /C=C\\ /C(F)=C/ /C=N/ C1(CC1)
""".split()
HEADS = (
    "C F N O Cl Br I [O-]C(=O) [NH3+] N#C OB(O) C[2H] c1ccccc1 C1CC1 [O-][N+](=O) C/C=C/".split()
)
TAILS = (
    "C F N O Cl Br I C(=O)[O-] [NH3+] C#N B(O)O c1ccccc1 C1CC1 [N+](=O)[O-] [C@H](C)O CO".split()
)
IONS = ["", "", "", ".[Na+]", ".[Cl-]", ".O"]
KINDS = (
    "good", "good", "good", "mirror", "diastereomer", "nan", "inf", "stretched", "squashed",
    "flat", "swapped", "out of memory", "nothing",
)  # fmt: skip


@st.composite
def smiles(draw) -> str:
    body = draw(st.lists(st.sampled_from(LINKS), min_size=1, max_size=3))
    text = draw(st.sampled_from(HEADS)) + "".join(body) + draw(st.sampled_from(TAILS))
    return text + draw(st.sampled_from(IONS))


@functools.cache
def geometry(text: str, seed: int) -> np.ndarray | None:
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    done = rdDistGeom.EmbedMolecule(mol, randomSeed=seed, maxAttempts=5)
    return mol.GetConformer().GetPositions() if done == 0 else None


def molecule(text: str) -> Chem.Mol | None:
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        return None
    fragments = Chem.GetMolFrags(Chem.AddHs(mol), asMols=True)
    mol = Chem.AddHs(Chem.MolFromSmiles(Chem.MolToSmiles(mol)))
    usable = all(m.GetNumAtoms() < 45 for m in fragments)
    return mol if usable and geometry(Chem.MolToSmiles(Chem.RemoveHs(mol)), 1) is not None else None


def dressed(mol: Chem.Mol, name: str) -> Chem.Mol:
    """With properties, notes and a conformer of its own, as molecules of users have."""
    copy = Chem.Mol(mol)
    copy.SetProp("_Name", name)
    copy.SetDoubleProp("activity", 7.25)
    copy.GetAtomWithIdx(0).SetProp("atomNote", "here")
    copy.GetAtomWithIdx(0).SetAtomMapNum(5)
    if copy.GetNumBonds():
        copy.GetBondWithIdx(0).SetProp("bondNote", "there")
    copy.AddConformer(Chem.Conformer(copy.GetNumAtoms()), assignId=True)
    return copy


def everything_but_conformers(mol: Chem.Mol) -> tuple:
    bare = Chem.Mol(mol)
    bare.RemoveAllConformers()
    options = Chem.PropertyPickleOptions  # all but what RDKit computes and keeps at hand
    kinds = options.MolProps | options.AtomProps | options.BondProps | options.PrivateProps
    atoms = [(a.GetIdx(), a.GetSymbol(), a.GetPropsAsDict(True, False)) for a in mol.GetAtoms()]
    bonds = [
        (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondType(), b.GetStereo(), b.GetPropsAsDict())
        for b in mol.GetBonds()
    ]
    return bare.ToBinary(int(kinds)), str(atoms), str(bonds), str(mol.GetPropsAsDict(True, False))


class Luck:
    """Samples that depend on nothing but the key of the request, as those of the pipeline do."""

    def __init__(self, mols: list[Chem.Mol]) -> None:
        # What the pipeline knows of a molecule is its graph; the script tells them by elements.
        self.binaries: dict[bytes, bytes] = {}
        for mol in mols:
            for fragment in Chem.GetMolFrags(mol, asMols=True):
                key = bytes(a.GetAtomicNum() for a in fragment.GetAtoms())
                copy = Chem.Mol(fragment)
                copy.RemoveAllConformers()
                self.binaries[key] = copy.ToBinary()
        self.kinds: set[str] = set()

    def __call__(self, request) -> np.ndarray | FailureCause:
        key = (request.seed, request.row, request.conformer, request.attempt)
        number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")
        kind = KINDS[number % len(KINDS)]
        self.kinds.add(kind)
        if kind == "out of memory":
            return FailureCause.OUT_OF_MEMORY
        if kind == "nothing":
            return FailureCause.NONFINITE
        binary = self.binaries[request.graph.atomic_numbers.tobytes()]
        return spoilt(binary, kind, 1 + number % 3, request.graph.n_atoms)


@functools.cache
def spoilt(binary: bytes, kind: str, seed: int, n: int) -> np.ndarray:
    mol = Chem.Mol(binary)
    if kind == "diastereomer":  # the last centre inverted, and double bonds left to chance
        for bond in mol.GetBonds():
            bond.SetStereo(Chem.BondStereo.STEREONONE)
        centers = [a for a in mol.GetAtoms() if a.GetChiralTag()]
        if centers:
            centers[-1].InvertChirality()
    done = rdDistGeom.EmbedMolecule(mol, randomSeed=seed, maxAttempts=5)
    if done != 0:  # that isomer cannot exist, or RDKit does not find it
        return np.random.default_rng(seed).normal(size=(n, 3)) * 2
    x = mol.GetConformer().GetPositions()
    if kind == "mirror":
        x = x * [-1.0, 1.0, 1.0]
    elif kind in ("nan", "inf"):
        x[seed % n, 1] = float(kind)
    elif kind == "stretched":
        x = x * 1.5
    elif kind == "squashed":
        x = x * 0.7
    elif kind == "flat":
        x = x * [1.0, 1.0, 0.02]
    elif kind == "swapped":
        x[[0, -1]] = x[[-1, 0]]
    return x


def embed(mols: list[Chem.Mol], answer, counts: int | list[int], **options):
    """`EmbedMoleculesDiffusion` on a script."""
    script = Script(answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdgeodiff.opening, "open_source", lambda settings: script)
        return EmbedMoleculesDiffusion(mols, counts, **options), script


def positions(mol: Chem.Mol) -> list[np.ndarray]:
    return [c.GetPositions() for c in mol.GetConformers()]


def parsed(texts: list[str]) -> list[Chem.Mol]:
    return [mol for mol in map(molecule, texts) if mol is not None]


SEEN: set[str] = set()


@MANY
@given(
    texts=st.lists(smiles(), min_size=1, max_size=3),
    seed=st.integers(0, 2**40),
    clear=st.booleans(),
    oversampling=st.integers(1, 3),
)
def test_whatever_is_drawn_the_promises_hold(texts, seed, clear, oversampling):
    mols = [dressed(m, f"number {k}") for k, m in enumerate(parsed(texts))]
    before = [everything_but_conformers(m) for m in mols]
    luck = Luck(mols)
    options = {"randomSeed": seed, "clearConfs": clear, "oversampling": oversampling}
    results, script = embed([*mols, None], luck, 3, maxIterations=3, **options)
    SEEN.update(luck.kinds)

    assert len(results) == len(mols) + 1  # one for each, in order
    assert results[-1].failures == {FailureCause.INVALID_INPUT: 3}
    assert all(request.attempt < 3 for request in script.requests)
    for mol, old, result in zip(mols, before, results, strict=False):
        assert everything_but_conformers(mol) == old
        assert accounted(result) and set(result.failures) <= set(FailureCause)
        first = 0 if clear else 1
        assert result.conf_ids == list(range(first, first + len(result.conf_ids)))
        assert mol.GetNumConformers() == first + len(result.conf_ids)
        for k in result.conf_ids:
            conformer = mol.GetConformer(k)
            assert conformer.Is3D()
            assert np.isfinite(conformer.GetPositions()).all()
            assert specified_stereo(mol, k) == written_stereo(mol)
            assert is_bonded_sensibly(mol, conformer.GetPositions())


@settings(MANY, max_examples=15)
@given(
    texts=st.lists(smiles(), min_size=2, max_size=3),
    seed=st.integers(0, 2**40),
    oversampling=st.integers(1, 2),
)
def test_the_company_of_a_molecule_makes_no_difference(texts, seed, oversampling):
    mols = parsed(texts)
    luck = Luck(mols)
    options = {"randomSeed": seed, "maxIterations": 2, "oversampling": oversampling}
    together = [Chem.Mol(m) for m in mols]
    results, _ = embed(together, luck, 3, **options)
    for row, mol in enumerate(mols):
        alone = Chem.Mol(mol)  # on its row, among others that cannot be attempted
        again, _ = embed([None] * row + [alone], luck, 3, **options)
        assert again[-1].failures == results[row].failures
        assert again[-1].rejections == results[row].rejections
        for a, b in zip(positions(alone), positions(together[row]), strict=True):
            assert np.array_equal(a, b)
    repeated = [Chem.Mol(m) for m in mols]
    embed(repeated, luck, 3, **options)
    for one, other in zip(together, repeated, strict=True):
        assert np.array_equal(positions(one), positions(other))


@settings(MANY, max_examples=15)
@given(text=smiles(), seed=st.integers(0, 2**40), more=st.integers(2, 5))
def test_the_first_of_some_is_the_first_of_more(text, seed, more):
    mols = parsed([text])
    for mol in mols:
        luck = Luck([mol])
        few, many = Chem.Mol(mol), Chem.Mol(mol)
        (a,), _ = embed([few], luck, 1, randomSeed=seed)
        (b,), _ = embed([many], luck, more, randomSeed=seed)
        assert a.requested == 1 and b.requested == more
        if a.conf_ids:
            assert np.array_equal(positions(few)[0], positions(many)[0])


def test_the_examples_are_of_every_kind():
    """The properties above would hold of nothing as well."""
    test_whatever_is_drawn_the_promises_hold()
    assert set(KINDS) == SEEN
    texts = {f"{head}{link}{tail}" for head in HEADS for link in LINKS for tail in TAILS}
    some = sorted(texts)[:: len(texts) // 60]
    usable = parsed(some)
    assert len(usable) > 0.6 * len(some)
    assert sum(bool(Chem.FindMolChiralCenters(m)) for m in usable) > 5
    assert sum(any(b.GetStereo() for b in m.GetBonds()) for m in usable) > 5


def test_a_mistake_in_the_call_touches_nothing(play):
    play(lambda request: FailureCause.NONFINITE)
    mol = dressed(molecule("C[C@H](F)O"), "kept")
    before, old = everything_but_conformers(mol), positions(mol)
    for mistake in ({"numConfs": -1}, {"numConfs": 1, "randomSed": 3}, {"numConfs": "two"}):
        with pytest.raises((ValueError, TypeError)):
            EmbedMoleculeDiffusion(mol, **mistake)
    assert everything_but_conformers(mol) == before
    assert np.array_equal(positions(mol), old)


def test_nothing_reaches_for_the_network(play, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    monkeypatch.setattr("socket.getaddrinfo", forbidden)
    mol = molecule("CCO")
    assert EmbedMoleculeDiffusion(mol, 1, steps=4, randomSeed=1, maxIterations=1) in ([], [0])
