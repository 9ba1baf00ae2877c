"""Measure every figure in README.md and docs/."""
