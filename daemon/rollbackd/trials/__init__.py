"""Trying it before it counts: what an alert would lead to, whether what is asked answers, whether messages arrive.

Nothing is decided here and nothing is written: the rules, guards and messages are those that count, asked once.
"""
