"""Other packages' users: `patch` makes the packages use fusedcam; `compat.pytorch_grad_cam` has one's classes anew.

python -m fusedcam.compat script.py runs a script with every installed peer patched.
"""

from .patching import Options, PatchStatus, patch, patch_status, patched, unpatch

__all__ = ["Options", "PatchStatus", "patch", "patch_status", "patched", "unpatch"]
