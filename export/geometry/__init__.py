"""Where things lie in the image: what axes run over, and which part of the image a tensor shows."""
