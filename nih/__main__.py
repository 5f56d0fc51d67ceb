"""`python -m nih`."""

from nih.cli import main

main()
