"""Figures as ratios to bare baselines measured in the same run: `make benchmark`."""
