"""Pruning a model by itself: what `fedsim prune` does, without a word of the command line.

What the model is (`subjects`), what a method may look at (`texts`, `looking`), the run (`running`), what it comes to
(`measuring`, `documents`), and what is written (`writing`).
"""
