"""Notifications: what people are told and in which words, who is told, each receiver's queue, and the ways to send."""
