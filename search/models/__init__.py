"""Models that search: published ones as they are."""
