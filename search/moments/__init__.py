"""Moments of long videos: how they are cut, encoded and saved."""
