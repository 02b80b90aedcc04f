"""The judge: incidents with known right answers, made from a seed, played by the daemon's own parts and by models of
its peers.

`plain.py` and `hard.py` have the classes of incidents, each with its label argued; `make judge` plays them and prints
who was right, how often and how soon.
"""
