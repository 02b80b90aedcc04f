"""What comes in, from the network, from files and from layers, and what every rule says of each service now."""
