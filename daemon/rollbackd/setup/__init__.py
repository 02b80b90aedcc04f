"""What is put onto a host: planned as values, told, and only then done; each step is harmless to repeat."""
