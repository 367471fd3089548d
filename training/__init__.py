"""Training: how the classifier that ships with camrt was made, and the parts it was made of.

Run `python -m camrt.training.default_classifier --help` to make it again. Importing this package imports
nothing; each file imports torch itself where it needs it.
"""
