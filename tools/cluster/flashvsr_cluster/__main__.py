# SPDX-License-Identifier: LGPL-2.1-or-later
import sys

from flashvsr_cluster.cli import main

sys.exit(main())
