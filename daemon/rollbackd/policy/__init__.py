"""What is made of a trigger: the ledger of what was, guards, target, decision. Pure."""
