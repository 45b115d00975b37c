"""The models and their parts: encoders, losses, momentum encoders, similarity heads."""
