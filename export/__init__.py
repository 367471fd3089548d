"""Work on ONNX graphs: reading files safely, cutting them at a tensor, factoring what follows the cut.

Nothing here runs a model, and nothing here needs torch. It imports nothing of camrt but `camrt.kernels`.
"""
