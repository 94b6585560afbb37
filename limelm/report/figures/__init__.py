"""The figures: functions that take records and return a Figure."""
