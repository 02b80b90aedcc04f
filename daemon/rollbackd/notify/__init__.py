"""Telling people: the words (pure) and one file for each way to send them. Nothing here reads or writes the journal."""
