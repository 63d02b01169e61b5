"""The Prometheus metrics of every hop, one module for each process and for what they share.

`inferlane_<component>_<what>_<unit>`; a label is a name that the catalog, the code or a setting knows, never one that a
client or a record brought. A process loads the modules of its own hops, so that it exposes nothing that it cannot know.
"""
