"""One file for each way to send a message. Nothing here reads or writes the journal."""
