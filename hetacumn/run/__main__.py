"""``python -m hetacumn.run`` runs a notebook; see :mod:`hetacumn.run.notebook`."""

import signal
import sys

from hetacumn.run.notebook import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # clusters send SIGTERM; this also interrupts the kernel
sys.exit(main())
