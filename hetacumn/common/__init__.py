"""What every other sub-package may use: errors, settings, files, provenance, memory."""
