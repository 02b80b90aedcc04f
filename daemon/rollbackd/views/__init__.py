"""What people and scripts are shown of the state: frozen values, and the functions that make them. No I/O."""
