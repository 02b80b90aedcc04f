"""What the journal says, folded once: the read model that everything else asks."""
