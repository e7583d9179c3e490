"""``python -m hetacumn.run`` runs a notebook; see :mod:`hetacumn.run.notebook`."""

import signal
import sys

from hetacumn.run.notebook import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's signal; it would leave the kernel to die unasked
sys.exit(main())
