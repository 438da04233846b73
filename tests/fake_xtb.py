"""A program that answers as xtb does, for tests of everything around it.

An optimisation leaves every atom where it is, gives an energy that depends on the distances, and
says that it has converged. XTB_FAKE names one thing that goes wrong.
"""

from __future__ import annotations

from pathlib import Path

_SCRIPT = r"""#!/bin/sh
if [ "$1" = --version ]; then echo "   * xtb version 9.9 (fake)"; exit; fi
[ -n "$XTB_LOG" ] && echo "$@" >> "$XTB_LOG"
[ -n "$XTB_SLEEP" ] && sleep "$XTB_SLEEP"
[ "$XTB_FAKE" = crash ] && { echo "-1- something went wrong"; exit 1; }
case "$*" in *--metadyn*) copies=7 ;; *) copies=1 ;; esac
awk -v fake="$XTB_FAKE" -v copies="$copies" '
NR == 1 { n = $1 }
NR > 2 { k++; s[k] = $1; x[k] = $2; y[k] = $3; z[k] = $4 }
END {
  for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++)
    e -= 0.01 / sqrt((x[i] - x[j])^2 + (y[i] - y[j])^2 + (z[i] - z[j])^2)
  if (fake == "break") x[n] += 3
  mirror = fake == "mirror" ? -1 : 1
  for (c = 1; c <= copies; c++) {
    printf "%d\n energy: %.9f gnorm: 0.0001 xtb: 9.9\n", n, e
    for (i = 1; i <= n; i++) printf "%s %.9f %.9f %.9f\n", s[i], x[i], y[i], mirror * z[i]
  }
}' molecule.xyz > "$([ $copies = 1 ] && echo xtbopt.xyz || echo xtb.trj)"
[ "$XTB_FAKE" = cut ] && head -n 4 xtbopt.xyz > cut && mv cut xtbopt.xyz
[ "$XTB_FAKE" = unconverged ] || touch .xtboptok
exit 0
"""


def install(folder: Path) -> Path:
    """Put the program into `folder`, made if it is not there, which goes in front of PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / "xtb"
    program.write_text(_SCRIPT)
    program.chmod(0o755)
    return folder
