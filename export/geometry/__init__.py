"""Where things lie in the picture: what axes run over, and which part of the picture a tensor shows."""
