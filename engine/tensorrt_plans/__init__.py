"""TensorRT plans of a model: one for every graph that camrt runs of it, kept in a folder.

TensorRT calls what it builds of a graph an engine, or a plan; here it is a plan, since an engine is what
`camrt.load` returns. TensorRT is imported only where plans are built or run.
"""
