"""Telling people: what is told to whom, its words, the queue of each receiver, and one file for each way to send."""
