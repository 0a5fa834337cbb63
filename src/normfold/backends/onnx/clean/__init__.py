"""Takes out of a graph what does not change a bit of its outputs: dead nodes, copies, what is computed in vain.

onnx_ir has passes for much of this, but not exact enough for models as they come: its Identity elimination renames
outer values from within a subgraph and outputs that have two names, its search for common subexpressions merges
Bernoulli, operators of unknown domains, and outputs that one of the two leaves out.
"""

from normfold.backends.onnx.clean.cleaner import Cleaning, clean, count_nodes

__all__ = ["Cleaning", "clean", "count_nodes"]
