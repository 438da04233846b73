"""The report on data sets as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rdgeodiff.datasets.spread import NUMBERS, Leak, SetFacts

_COLUMNS = ("mean", "min", "5%", "median", "95%", "max")


def markdown(sets: Sequence[SetFacts], leaks: Sequence[Leak] = ()) -> str:
    """A table for each set and, where there are several, what they share."""
    parts = [_set(facts) for facts in sets]
    if leaks:
        parts.append(_leaks(leaks))
    return "\n\n".join(parts) + "\n"


def _set(facts: SetFacts) -> str:
    data = facts.to_dict()
    lines = [
        f"### {data['name']}: {data['molecules']} molecules, {data['conformers']} conformers",
        "",
        "| | " + " | ".join(_COLUMNS) + " |",
        "|" + "---|" * (1 + len(_COLUMNS)),
    ]
    for name, title in NUMBERS.items():
        spread = data["spreads"][name]
        if spread is not None:
            # The mean of whole numbers is none.
            digits = 2 if name == "energy_spread" else 0
            cells = [f"{spread[c]:.{2 if c == 'mean' else digits}f}" for c in _COLUMNS]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    total = max(1, data["molecules"])
    shares = [f"{symbol} {100 * n / total:.1f}" for symbol, n in data["elements"].items()]
    charges = [f"{int(charge):+d}: {n}" for charge, n in data["charges"].items()]
    lines += ["", f"Elements, % of the molecules: {', '.join(shares) or 'none'}."]
    lines.append(f"Total charges: {', '.join(charges).replace('+0:', '0:') or 'none'}.")
    lines.append(
        f"Macrocycles: {data['macrocycles']}. Molecules whose graph came before in the set: "
        f"{data['repeated_graphs']}."
    )
    return "\n".join(lines)


def _leaks(leaks: Sequence[Leak]) -> str:
    lines = [
        "### Graphs in two sets, stereochemistry aside",
        "",
        "| | | graphs | molecules | for example |",
        "|---|---|---|---|---|",
    ]
    for leak in leaks:
        here, there = leak.molecules
        molecules = f"{here} and {there}" if leak.shared else "–"
        examples = ", ".join(f"`{smiles}`" for smiles in leak.examples) or "–"
        lines.append(f"| {leak.one} | {leak.other} | {leak.shared} | {molecules} | {examples} |")
    return "\n".join(lines)
