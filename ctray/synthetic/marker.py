"""The file that tells synthetic data from patients'."""

# In the folder beside the class folders, so that nobody takes these images' figures for patients'.
SYNTHETIC_MARKER = "SYNTHETIC"
