"""Timelines and curves drawn: HTML, Chrome traces, matplotlib."""
