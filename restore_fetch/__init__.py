"""Wait for a MongoDB restore job, download its archive once, and prove that it is the right one."""

__version__ = "0.1.0"
__all__ = ["__version__"]
