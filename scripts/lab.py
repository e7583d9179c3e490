"""Starts each kernel of `make lab` in the project's folder, from which notebooks name their files."""

import os

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
del os
