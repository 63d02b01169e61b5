"""What a version declares to run before and after its graph: text and images in, scores and embeddings out."""
