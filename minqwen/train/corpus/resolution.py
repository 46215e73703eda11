"""How large pictures may be, and how they are cut into patches."""

# areas in pixels, despite the names that the settings file gives them
MIN_PIXELS, MAX_PIXELS = 64 * 64, 512 * 512
MAX_VIDEO_PIXELS = 16 * MAX_PIXELS
GRID = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
PATCHES = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS, "mean": 0.5, "std": 0.5}
PATCHES |= GRID
