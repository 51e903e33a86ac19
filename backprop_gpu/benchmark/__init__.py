"""How fast the library is on this machine, beside what the machine can do."""
