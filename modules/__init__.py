"""The model: encoders, losses, momentum copies. Knows no flags, no annotation files, no logs."""
