"""The speeds that are promised, measured: `python bench/run.py`. Every row is a ratio or a figure of one run."""
