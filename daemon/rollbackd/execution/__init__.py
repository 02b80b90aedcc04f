"""The only side that changes the world: the loop of an incident, its effects, its layers and its checks."""
