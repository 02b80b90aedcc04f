"""Checks: one question about health each, one file a kind. Not being able to ask is inconclusive, never good or bad."""
