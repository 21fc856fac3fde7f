"""`python -m mxn_edge`: the same as the `mxn-edge` command."""

import sys

from mxn_edge.cli import main

sys.exit(main())
