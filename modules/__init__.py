"""The models and what they are made of: encoders, losses, momentum encoders, similarity heads."""
