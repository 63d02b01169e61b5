"""The Kubernetes objects of a deployment, made from the settings and the catalogue.

Pure: settings and versions in, documents and files out. `inferlane k8s render` writes them; `k8s/` holds what the
defaults give.
"""
