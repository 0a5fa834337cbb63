"""Are these two models the same, and how far apart: probes, deviation, comparison."""
