"""Benches: speed and exactness, as ratios within one run."""
