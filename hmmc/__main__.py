"""`python -m hmmc` is the command `hmmc`; so is `torchrun ... -m hmmc`, on every rank."""

import sys

if __name__ == "__main__":
    from hmmc.command_line import run

    sys.argv[0] = "hmmc"
    run()
