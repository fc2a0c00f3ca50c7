"""Networks behind one contract, and the file format that rebuilds them."""
