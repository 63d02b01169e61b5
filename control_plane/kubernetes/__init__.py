"""What Inferlane is on a cluster, as Kubernetes objects made of the settings and the catalogue.

Pure: settings and versions in, documents and files out. `inferlane k8s render` writes them; `k8s/` holds what the
defaults give.
"""
