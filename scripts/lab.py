"""What `make lab` lets each kernel begin with: notebooks name their files from the project's folder, wherever they lie."""

import os

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
del os
