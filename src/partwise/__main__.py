"""`python -m partwise`."""

from partwise.cli import main

main()
