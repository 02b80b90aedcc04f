"""The words: from facts to messages. Nothing here reads or writes the journal. No I/O."""
