"""Torch modules and `torch.export` files, explained where they are: hooks do the cutting.

Each file here imports torch; `camrt.load` comes here only for a module or a .pt2 file.
"""
