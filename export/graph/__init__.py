"""An index over ONNX graphs, and facts about their nodes: values, shapes, sizes, operators."""
