"""Tests of the tests: each guarantee has one that fails when its mechanism is taken out."""
