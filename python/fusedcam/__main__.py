"""`python -m fusedcam` is the command `fusedcam`."""

from .cli import main

main(prog_name="fusedcam")
