"""What a manifest of ours must hold to: rules that no schema knows, because they compare it with the code."""
