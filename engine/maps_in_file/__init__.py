"""Maps inside the model file: a file's own graph, followed by the graph of its maps."""
