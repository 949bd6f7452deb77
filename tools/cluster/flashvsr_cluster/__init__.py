# SPDX-License-Identifier: LGPL-2.1-or-later
"""One film over many machines: planned, run in parts by ffmpeg with the flashvsr filter, and joined."""
