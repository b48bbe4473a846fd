"""`python -m ckptctl`."""

from ckptctl.commands.main import console

if __name__ == "__main__":
    console()
