"""The models and their parts: encoders, losses, momentum encoders, similarity heads.

"Shen et al. 2023" in these files is the HMMC paper, doi 10.1109/TIP.2023.3275071.
"""
