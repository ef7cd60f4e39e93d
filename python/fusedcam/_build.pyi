"""How this installation was built; written by CMake."""

WITHOUT_CUDA: str
"""Why there is no module _cuda; empty where there is one."""
CUDA_ARCHITECTURES: str
"""Those that the kernels were compiled for, as CMake writes them."""
