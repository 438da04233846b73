"""Errors of ensemble properties reported for GeoDiff, for tables beside our own.

They come from other molecules (30 of GEOM-QM9, Psi4, 50 conformers each) and so give scale, not a
ranking.
"""

from __future__ import annotations

SOURCE = "GeoDiff as submitted to ICLR 2022, section 5.3; Psi4, 30 molecules of GEOM-QM9"

# Mean absolute errors in eV: mean energy, lowest energy, mean, smallest and largest gap.
PUBLISHED_PROPERTIES = {
    "RDKit": (0.9233, 0.6585, 0.3698, 0.8021, 0.2359),
    "GraphDG": (9.1027, 0.8882, 1.7973, 4.1743, 0.4776),
    "CGCF": (28.9661, 2.8410, 2.8356, 10.6361, 0.5954),
    "ConfVAE": (0.8208, 0.6100, 1.6080, 3.9111, 0.2429),
    "ConfGF": (2.7886, 0.1765, 0.4688, 2.1843, 0.1433),
    "GeoDiff": (0.2574, 0.1550, 0.1758, 0.7032, 0.1039),
}


def published_properties_table() -> str:
    """Markdown table of the reported rows."""
    lines = [
        f"Published ({SOURCE}), mean absolute error in eV:",
        "",
        "| method | mean energy | lowest energy | mean gap | smallest gap | largest gap |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {method} | " + " | ".join(f"{value:.4f}" for value in row) + " |"
        for method, row in PUBLISHED_PROPERTIES.items()
    ]
    return "\n".join(lines)
