"""Everything that hosts Faust: no other package imports it."""
