"""How code is compiled, cached and run: everything that knows the machine."""
