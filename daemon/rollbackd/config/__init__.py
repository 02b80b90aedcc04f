"""The configuration: YAML with positions, models, secrets."""
