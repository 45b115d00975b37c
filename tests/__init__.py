"""Tests and the processes they fork do not wait for the disk: while others write, fsync can take minutes."""

import os

os.fsync = lambda handle: None
