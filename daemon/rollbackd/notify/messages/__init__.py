"""The words: messages made of facts. Nothing here reads or writes the journal. No I/O."""
