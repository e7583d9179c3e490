"""Set the working directory of each kernel of `make lab` to the project folder, which relative paths in notebooks assume."""

import os

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
del os
