"""Video sources: files in a folder, published datasets, and mixtures of any sources.

Importing this package imports neither PyAV nor Pillow.
"""
