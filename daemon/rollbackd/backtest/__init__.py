"""The past played again: the real rules, guards and ledger on a Prometheus's history, in virtual time.

It never acts, tells nobody, and writes to no journal but one in memory.
"""
