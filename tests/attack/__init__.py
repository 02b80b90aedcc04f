"""An attack on a real daemon during a real rollback: everything at once that the world can send."""
