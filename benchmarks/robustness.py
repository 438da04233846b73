"""What becomes of thousands of molecules, bad ones included; ETKDGv3 beside, with the same n.

    python benchmarks/robustness.py [FILE.smi ...] [--molecules 1000 1000] [--conformers 2]
        [--together 1] [--seconds 600] [--folder runs/robustness] [--out FILE.md]

One JSON line per molecule goes to FOLDER/molecules.jsonl as it is finished; a run that is stopped,
or told to stop after --seconds, goes on where it was when it is started again with the same
settings. As many molecules as --molecules says are taken of each file, at even distances (by
default of the training sets in data/, so that the benchmark stands alone), and those of
benchmarks/data/bad_inputs.smi are added, each with what is expected of it. With --together, so many
molecules of a file ride in one call, and each gets its share of the call's seconds; a call that
crashes is made again molecule by molecule, and bad inputs are always alone. Stereo is checked by
way of RDKit's canonical SMILES, which shares no code with the checks inside the library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from tqdm.auto import tqdm

from rdgeodiff import EmbedMoleculesDiffusion

ROOT = Path(__file__).resolve().parent.parent
BAD_INPUTS = ROOT / "benchmarks" / "data" / "bad_inputs.smi"
ARCHIVES = [ROOT / "data" / name for name in ("train_drugs_gfnff.npz", "train_qm9_gfn2.npz")]
# Atoms; beyond, RDKit sets up its distance bounds for minutes before it looks at its timeout.
ETKDG_LIMIT = 1000
BAD = "bad inputs"  # the set they are
UNSPECIFIED = Chem.ChiralType.CHI_UNSPECIFIED
NO_LABEL = (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY)


def main() -> None:
    """Embed what is still missing, then write the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=ARCHIVES)
    parser.add_argument("--molecules", type=int, nargs="+", default=[1000], help="of each file")
    parser.add_argument("--conformers", type=int, default=2)
    parser.add_argument("--together", type=int, default=1, help="molecules in one call")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after; 0 for no limit")
    parser.add_argument("--timeout", type=float, default=120.0, help="per molecule and method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="default")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "robustness")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if len(args.molecules) == 1:
        args.molecules *= len(args.files)
    names = ("molecules", "conformers", "together", "timeout", "seed", "model")
    settings = {name: getattr(args, name) for name in names}
    settings["files"] = [path.name for path in args.files]
    args.folder.mkdir(parents=True, exist_ok=True)
    check_settings(args.folder / "settings.json", settings)
    log = args.folder / "molecules.jsonl"
    records = read_log(log)
    every = list(molecules(args.files, args.molecules))
    warm_up(args.model)
    started = time.monotonic()
    total = len(every)
    with log.open("a") as stream, tqdm(total=total, initial=len(records), unit="mol") as bar:
        for group in groups(every, args.together):
            if all(record["name"] in records for record in group):
                continue
            if args.seconds and time.monotonic() - started > args.seconds:
                break
            for record in examine(group, args):
                if record["name"] not in records:
                    stream.write(json.dumps(record) + "\n")
                    records[record["name"]] = record
                    bar.update()
            stream.flush()
    text = report(list(records.values()), settings, total)
    out = args.out or args.folder / "robustness.md"
    out.write_text(text)
    print(text)


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Results of different settings must not end up in one table."""
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{path}: made with other settings; use another --folder")
    path.write_text(json.dumps(settings))


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    """Finished molecules by name; a line cut short when the run was killed is cut off."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {r["name"]: r for r in map(json.loads, whole.splitlines())}


def molecules(files: list[Path], wanted: list[int]) -> Iterator[dict[str, Any]]:
    """One record per molecule: evenly spread over each file, then the bad inputs."""
    for path, share in zip(files, wanted, strict=True):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                smiles = [str(s) for s in stored["smiles"]]
        else:
            lines = (line.split() for line in path.read_text().splitlines())
            smiles = [parts[0] for parts in lines if parts and not parts[0].startswith("#")]
        for row in np.unique(np.linspace(0, len(smiles) - 1, min(share, len(smiles))).astype(int)):
            yield {"name": f"{path.stem}:{row}", "set": path.stem, "smiles": smiles[row]}
    for line in BAD_INPUTS.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            text, name, expected = line.split("\t")
            yield {"name": f"bad:{name}", "set": BAD, "smiles": text, "expected": expected}


def groups(records: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """What rides in one call: `size` molecules of one set; a bad input is alone."""
    for name, members in itertools.groupby(records, key=lambda r: r["set"]):
        while group := list(itertools.islice(members, 1 if name == BAD else size)):
            yield group


def warm_up(model: str) -> None:
    """Loading the weights is no part of the time of a molecule."""
    EmbedMoleculesDiffusion([Chem.AddHs(Chem.MolFromSmiles("C"))], 1, model=model)


def examine(group: list[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Embed a group by both methods and add to its records what was found."""
    mols = [read(record["smiles"]) for record in group]
    options = {"randomSeed": args.seed, "timeout": args.timeout * len(group), "model": args.model}
    start = time.perf_counter()
    try:
        results = EmbedMoleculesDiffusion(mols, args.conformers, **options)
    except Exception:  # whatever it is: that there is none is what is measured
        if len(group) > 1:
            return [found for record in group for found in examine([record], args)]
        results = []
        group[0]["crash"] = traceback.format_exc()
    seconds = (time.perf_counter() - start) / len(group)
    for record, mol in zip(group, mols, strict=True):
        record["atoms"] = mol.GetNumAtoms() if mol is not None else 0
        record["requested"] = args.conformers
        if mol is not None and 0 < record["atoms"] <= ETKDG_LIMIT:
            record["etkdg"] = etkdg(mol, args)
    for record, mol, result in zip(group, mols, results, strict=False):
        record["seconds"] = seconds
        record["delivered"] = len(result.conf_ids)
        record["failures"], record["rejections"] = result.failures, result.rejections
        record["rounds"], record["error"] = result.rounds, result.error
        record["wrong"] = sum(not is_right(mol, k) for k in result.conf_ids)
        missing = args.conformers - len(result.conf_ids) - sum(result.failures.values())
        record["unaccounted"] = missing
    return group


def read(smiles: str) -> Chem.Mol | None:
    """The molecule with its hydrogens; None if it cannot be read."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles else Chem.Mol()
        return Chem.AddHs(mol) if mol is not None else None


def etkdg(mol: Chem.Mol, args: argparse.Namespace) -> dict[str, Any]:
    """The same of ETKDGv3."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    params = rdDistGeom.ETKDGv3()
    params.randomSeed, params.timeout = args.seed + 1, max(1, int(args.timeout))
    start = time.perf_counter()
    try:
        with rdBase.BlockLogs():
            ids = list(rdDistGeom.EmbedMultipleConfs(copy, args.conformers, params))
    except Exception:
        return {"crash": traceback.format_exc()}
    seconds = time.perf_counter() - start
    ids = [k for k in ids if k >= 0]
    wrong = sum(not is_right(copy, k) for k in ids)
    return {"seconds": seconds, "delivered": len(ids), "wrong": wrong}


def is_right(mol: Chem.Mol, conf_id: int) -> bool:
    """Finite, and RDKit reads the specified stereo back from the positions."""
    if not np.isfinite(mol.GetConformer(conf_id).GetPositions()).all():
        return False
    seen = Chem.Mol(mol, confId=conf_id)
    for atom in seen.GetAtoms():
        atom.SetChiralTag(UNSPECIFIED)
    for bond in seen.GetBonds():
        bond.SetStereo(Chem.BondStereo.STEREONONE)
    Chem.AssignStereochemistryFrom3D(seen, conf_id, replaceExistingTags=True)
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() == UNSPECIFIED:
            seen.GetAtomWithIdx(atom.GetIdx()).SetChiralTag(UNSPECIFIED)
    return isomeric_smiles(seen, mol) == isomeric_smiles(mol, mol)


def isomeric_smiles(mol: Chem.Mol, specified: Chem.Mol) -> str:
    """Canonical SMILES of the bare molecule, stereo that is not specified cleaned away."""
    copy = Chem.Mol(mol)
    for bond in specified.GetBonds():
        if bond.GetBondType() == Chem.BondType.DOUBLE and bond.GetStereo() in NO_LABEL:
            # "Any", as RDKit would else read the directions of the single bonds beside it.
            copy.GetBondWithIdx(bond.GetIdx()).SetStereo(Chem.BondStereo.STEREOANY)
    with rdBase.BlockLogs():
        copy = Chem.RemoveAllHs(copy, sanitize=False)
        Chem.AssignStereochemistry(copy, cleanIt=True, force=True)
        return Chem.MolToSmiles(copy)


def as_expected(record: dict[str, Any]) -> bool:
    """A bad input is delivered whole where "ok" is expected, else it fails by the cause named."""
    if "crash" in record:
        return False
    if record["expected"] == "ok":
        return record["delivered"] == record["requested"]
    return record["delivered"] == 0 and set(record["failures"]) <= set(
        record["expected"].split("|")
    )


def report(records: list[dict[str, Any]], settings: dict[str, Any], total: int) -> str:
    """The markdown table of everything that is finished."""
    lines = [
        "# Robustness",
        "",
        f"{len(records)} of {total} molecules, n = {settings['conformers']} each, model "
        f"`{settings['model']}`, seed {settings['seed']}, files {', '.join(settings['files'])}. "
        f"{settings['together']} molecules in one call (bad inputs alone). "
        "Seconds include checks and resampling, not loading the model.",
        "",
        "| set | method | molecules | conformers asked for | delivered % | molecules complete % | "
        "wrong stereo | unaccounted | crashes | s/molecule (median) | s/conformer |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    sets = dict.fromkeys(r["set"] for r in records)
    for name in sets:
        chosen = [r for r in records if r["set"] == name]
        lines.append(row(name, "diffusion", chosen, chosen))
        beside = [r for r in chosen if "etkdg" in r]
        lines.append(row(name, "ETKDGv3", [r["etkdg"] for r in beside], beside))
    for title, key in (
        ("Conformers not delivered", "failures"),
        ("Samples drawn again", "rejections"),
    ):
        lines += [
            "",
            f"{title}, by cause:",
            "",
            "| set | cause | number |",
            "|---|---|---|",
        ]
        for name in sets:
            counts: Counter[str] = Counter()
            for r in records:
                counts.update(r.get(key, {}) if r["set"] == name else {})
            lines += [f"| {name} | {cause} | {n} |" for cause, n in counts.most_common()]
    bad = [r for r in records if "expected" in r]
    lines += [
        "",
        f"Bad inputs that came out as expected: {sum(map(as_expected, bad))} of {len(bad)}.",
    ]
    for r in bad:
        if not as_expected(r):
            found = r.get("failures") or r.get("crash", "delivered").splitlines()[-1]
            lines.append(
                f"- {r['name']} `{r['smiles'][:60]}`: expected {r['expected']}, found {found}"
            )
    wrong = [r for r in records if r.get("wrong") or r.get("unaccounted") or "crash" in r]
    lines += [f"- {r['name']} `{r['smiles'][:60]}`: wrong, unaccounted or crashed" for r in wrong]
    return "\n".join(lines) + "\n"


def row(name: str, method: str, found: list[dict[str, Any]], asked: list[dict[str, Any]]) -> str:
    """One line of the table: `found` by a method for the molecules `asked`."""
    requested = sum(r["requested"] for r in asked)
    delivered = sum(r.get("delivered", 0) for r in found)
    complete = sum(
        f.get("delivered", 0) == a["requested"] for f, a in zip(found, asked, strict=True)
    )
    seconds = [r["seconds"] for r in found if "seconds" in r]
    cells = [
        name,
        method,
        str(len(found)),
        str(requested),
        f"{100 * delivered / max(requested, 1):.2f}",
        f"{100 * complete / max(len(found), 1):.2f}",
        str(sum(r.get("wrong", 0) for r in found)),
        str(sum(r.get("unaccounted", 0) for r in found)),
        str(sum("crash" in r for r in found)),
        f"{statistics.median(seconds):.3f}" if seconds else "-",
        f"{sum(seconds) / max(delivered, 1):.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
