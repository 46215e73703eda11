"""llama.cpp's files: header, names, settings and weights."""
