"""The specification of judgement: situations as an on-call engineer would tell them, and what is decided in each.

`situations/` has them as data, `script.py` says what can happen in them. `make judgement` plays and prints them.
"""
