"""Which premises keep norms in place? A count for each, over any number of models.

python examples/audit_norms.py [MODEL ...]; without arguments, the network inside the package.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import normfold
from normfold.verbs.demo.network import network


def audit(models: Iterable[Path]) -> Counter[str]:
    """Number of norms that each premise keeps; ``folded`` counts those that nothing keeps."""
    tally: Counter[str] = Counter()
    for model in models:
        for norm in normfold.inspect(str(model)).norms:
            tally.update({refusal.premise for refusal in norm.would.refused_by} or {norm.would.outcome})
    return tally


if __name__ == "__main__":
    with network() as source:
        for reason, norms in audit(map(Path, sys.argv[1:]) if sys.argv[1:] else [source]).most_common():
            print(f"{norms:6} {reason}")
