"""`inferlane models quantize`: int8 forms of a version are made, measured, and published if they pay."""
